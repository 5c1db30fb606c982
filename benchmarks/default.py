"""How the default detector was chosen, and what it gives on suites that took no part in that.

    python benchmarks/default.py --choosing FOLDER ... --reporting FOLDER ... [--json FILE]

A folder is a result of ``neroli bench`` with its stored activations. Every row is a detector or a
combination; of each suite its FPR95 in %, the mean over the OOD sets, fitted on the training images
alone. The suites for reporting show only the baseline, which is the single detector with the lowest
mean over the suites for choosing, and what was chosen, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neroli import ActivationStore, fit
from neroli.detectors import DEFAULT, create
from neroli.detectors.catalogue import ready_names
from neroli.errors import NeroliError, NeroliWarning
from neroli.metrics import auroc, fpr95

Array = NDArray[np.float64]

LEFT_OUT = ("weiper_kld", "itp", "corp", DEFAULT)
"""Detectors that take minutes, and the default, which is made of the others here."""
RECIPE = ("cadref", "line", "relative_mahalanobis", "vim")
RESAMPLES = 1000
BATCH = 1024


@dataclass(frozen=True, eq=False)
class Suite:
    """The scores of all detectors on one suite.

    Args:
        name: of the suite.
        scores: by detector and set ("train", "test" and OOD sets), higher = more OOD.
        predictions: by set, the predicted classes.
        failures: detectors without scores, and why.
    """

    name: str
    scores: dict[str, dict[str, Array]]
    predictions: dict[str, NDArray[np.int64]]
    failures: dict[str, str]

    @cached_property
    def ood(self) -> list[str]:
        return sorted(self.predictions.keys() - {"train", "test"})


def read(folder: Path, names: Sequence[str]) -> Suite:
    """Fit detectors on a suite's training activations and score all its images."""
    sets = json.loads((folder / "results.json").read_text())["sets"]
    known = {each["name"]: each["role"] for each in sets}
    stores: dict[str, ActivationStore] = {}
    for path in sorted((folder / "activations").glob("*/*/store.json")):
        kind = path.parent.name
        for name, role in known.items():
            stem = f"ood-{name}" if role == "ood" else name
            if role in ("train", "test", "ood") and kind.startswith(stem):
                stores[name if role != "ood" else f"ood/{name}"] = ActivationStore(path.parent)
    train = stores["train"]
    fitted, failures = {}, {}
    first = next(iter(stores["test"].batches(1)))
    layers = sorted({tap.partition(":")[0] for tap in first.taps})
    for name in names:
        settings = {"layers": layers} if layers and name == "multi_layer_mahalanobis" else {}
        try:
            detector = fit([create(name, **settings)], train, train.head)[0]
            detector.score(first)  # which may lack what it needs
            fitted[name] = detector
        except NeroliError as error:
            failures[name] = str(error)
    scores: dict[str, dict[str, Array]] = {name: {} for name in fitted}
    predictions = {}
    for kind, store in stores.items():
        given: dict[str, list[Array]] = {name: [] for name in fitted}
        classes = []
        for batch in store.batches(BATCH):
            classes.append(batch.predictions.numpy())
            for name, detector in fitted.items():
                given[name].append(detector.score(batch).double().numpy())
        predictions[kind] = np.concatenate(classes)
        for name, parts in given.items():
            scores[name][kind] = np.concatenate(parts)
    return Suite(folder.name.removesuffix("-bench"), scores, predictions, failures)


def quantiles(values: Array) -> tuple[float, float]:
    """Median, and how far the 95 % quantile is above it."""
    median, upper = np.quantile(values, [0.5, 0.95])
    return float(median), float(upper - median)


def moments(values: Array) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(values.mean()), float(values.std())


@dataclass(frozen=True)
class Combination:
    """Several detectors as one.

    Args:
        members: their names.
        weights: of each; the same for all if none are given.
        rule: how standardised scores ``[M, N]`` become one, ``[N]``.
        unit: centre and unit of a member's scores on ID images.
        clip: the lowest and highest standardised score.
        on: the images that units are of; of "test" the same that are judged.
        by_class: with centres and units of every predicted class.
        tail: p-values of the ID images, ``-log p``, in place of standardised scores.
        said: what is said of it in the table.
    """

    members: tuple[str, ...] = RECIPE
    weights: tuple[float, ...] = ()
    rule: Callable[[Array], Array] = field(default=lambda scores: scores.mean(axis=0))
    unit: Callable[[Array], tuple[float, float]] = quantiles
    clip: tuple[float, float] = (-3.0, 6.0)
    on: str = "train"
    by_class: bool = False
    tail: bool = False
    said: str = ""

    def scores(self, suite: Suite, kind: str) -> Array:
        weights = self.weights or (1.0,) * len(self.members)
        parts = [
            w * self._member(suite, m, kind) for m, w in zip(self.members, weights, strict=True)
        ]
        return self.rule(np.stack(parts))

    def _member(self, suite: Suite, name: str, kind: str) -> Array:
        known, values = suite.scores[name][self.on], suite.scores[name][kind]
        if len(self.members) == 1:
            return values
        if self.tail:
            above = len(known) - np.searchsorted(np.sort(known), values)
            return -np.log((above + 1) / (len(known) + 1))
        centre, unit = np.empty_like(values), np.empty_like(values)
        centre[:], unit[:] = self.unit(known)
        if self.by_class:
            for label in np.unique(suite.predictions[self.on]):
                own = known[suite.predictions[self.on] == label]
                if len(own) >= 40:
                    rows = suite.predictions[kind] == label
                    centre[rows], unit[rows] = self.unit(own)
        return np.clip((values - centre) / np.maximum(unit, 1e-12), *self.clip)


def highest(scores: Array) -> Array:
    return scores.max(axis=0)


def softly_highest(scores: Array) -> Array:
    return np.asarray(np.log(np.exp(scores).sum(axis=0)))


def experiments(singles: Sequence[str]) -> list[Combination]:
    """Everything that was tried and mattered, in the order of the table."""
    found = [Combination((name,), said="alone") for name in singles]
    found.append(Combination(said="**the default**"))
    found += [
        Combination(tuple(m for m in RECIPE if m != left), said=f"without {left}")
        for left in RECIPE
    ]
    more = ("knn", "relevance_deviation", "nero", "energy", "she", "fdbd", "regularised_pca", "nac")
    found += [Combination((*RECIPE, each), said=f"and {each}") for each in more]
    for position, member in enumerate(RECIPE):
        weights = tuple(2.0 if p == position else 1.0 for p in range(len(RECIPE)))
        found.append(Combination(weights=weights, said=f"{member} twice"))
    found += [
        Combination(on="test", said="units of held-out images"),
        Combination(by_class=True, said="units of every predicted class"),
        Combination(unit=moments, said="mean and standard deviation as units"),
        Combination(clip=(-np.inf, np.inf), said="not clipped"),
        Combination(rule=highest, said="the highest"),
        Combination(rule=softly_highest, said="log of the sum of exponentials"),
        Combination(tail=True, on="test", said="sum of -log p (Fisher)"),
        Combination(tail=True, on="test", rule=highest, said="lowest p"),
    ]
    others = [
        ("cadref", "relevance_deviation", "vim"),
        ("cadref", "energy"),
        ("cadref", "relative_mahalanobis"),
        ("cadref", "knn", "relative_mahalanobis"),
        ("cadref", "knn", "regularised_pca"),
        ("cadref", "knn", "line", "relative_mahalanobis"),
        ("cadref", "relative_mahalanobis", "she", "vim"),
        ("nero", "line"),
    ]
    found += [
        Combination(members, on="test", said="units of held-out images") for members in others
    ]
    for weight in (1.0, 0.5):
        members = (*RECIPE, "multi_layer_mahalanobis")
        weights = (*(1.0,) * len(RECIPE), weight)
        found.append(Combination(members, weights, on="test", said=f"earlier layers, {weight:g} x"))
    return found


def mean_fpr(suite: Suite, combination: Combination) -> float | None:
    """In %, over the OOD sets; None where a member has no scores."""
    if any(member not in suite.scores for member in combination.members):
        return None
    inside = combination.scores(suite, "test")
    outside = [combination.scores(suite, kind) for kind in suite.ood]
    return float(np.mean([100 * fpr95(inside, each) for each in outside]))


def compared(suite: Suite, one: Combination, other: Combination) -> dict[str, Any]:
    """FPR95 and AUROC of both and their differences, with intervals over resampled images."""
    draw = np.random.default_rng(0)
    kinds = ["test", *suite.ood]
    both = [{kind: each.scores(suite, kind) for kind in kinds} for each in (one, other)]

    def figures(rows: dict[str, NDArray[Any]]) -> Array:
        values = []
        for scores in both:
            inside = scores["test"][rows["test"]]
            sets = [scores[kind][rows[kind]] for kind in suite.ood]
            values.append([np.mean([100 * f(inside, s) for s in sets]) for f in (fpr95, auroc)])
        return np.array(values)

    def resampled() -> dict[str, NDArray[Any]]:
        sizes = {kind: len(both[0][kind]) for kind in kinds}
        return {kind: draw.integers(0, size, size) for kind, size in sizes.items()}

    whole = figures({kind: np.arange(len(both[0][kind])) for kind in kinds})
    drawn = np.array([figures(resampled()) for _ in range(RESAMPLES)])
    differences = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975], axis=0)
    return {
        "suite": suite.name,
        "fpr95": whole[:, 0].tolist(),
        "fpr95 difference": [*(whole[0] - whole[1])[:1].tolist(), *differences[:, 0].tolist()],
        "auroc": whole[:, 1].tolist(),
        "auroc difference": [*(whole[0] - whole[1])[1:].tolist(), *differences[:, 1].tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choosing", type=Path, nargs="+", required=True)
    parser.add_argument("--reporting", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NeroliWarning)
    torch.set_num_threads(1)
    names = [
        name for name in ready_names() if name not in LEFT_OUT and not create(name).requires.probes
    ]
    choosing = [read(folder, names) for folder in options.choosing]
    found: dict[str, Any] = {"choosing": [], "reporting": []}
    everywhere = [name for name in names if all(name in suite.scores for suite in choosing)]
    alone = {n: [mean_fpr(s, Combination((n,))) or 0.0 for s in choosing] for n in everywhere}
    order = sorted(alone, key=lambda name: np.mean(alone[name]))
    baseline = Combination((order[0],), said="the baseline")
    print("| detectors | |", " | ".join(suite.name for suite in choosing), "| mean | / baseline |")
    print("|---|---|" + "---|" * (len(choosing) + 2))
    for combination in experiments(order[:12]):
        values = [mean_fpr(suite, combination) for suite in choosing]
        shown = " | ".join("-" if value is None else f"{value:.1f}" for value in values)
        known = [value for value in values if value is not None]
        same = [v for v, value in zip(alone[order[0]], values, strict=True) if value is not None]
        ratio = np.mean(known) / np.mean(same) if known else np.nan
        members = " + ".join(combination.members)
        print(f"| {members} | {combination.said} | {shown} | {np.mean(known):.1f} | {ratio:.2f} |")
        found["choosing"].append(
            {"members": combination.members, "said": combination.said, "fpr95": values}
        )
    print(f"\n{len(everywhere)} detectors, the default beside {order[0]}:")
    for folder in (*options.choosing, *options.reporting):
        suite = read(folder, [*RECIPE, order[0]])
        row = compared(suite, Combination(), baseline)
        found["reporting"].append(row | {"held back": folder in options.reporting})
        print(json.dumps(found["reporting"][-1]), flush=True)
    held_back = [row["fpr95"] for row in found["reporting"] if row["held back"]]
    if held_back:
        ours, theirs = np.mean(held_back, axis=0)
        print(f"held back, mean FPR95: {ours:.2f} / {theirs:.2f} = {ours / theirs:.3f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
