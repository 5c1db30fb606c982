"""How the default detector was chosen, and what it gives on suites that took no part in that.

    python benchmarks/default.py [--data DATA] [--folder FOLDER] [--json FILE]

First every suite is measured with ``neroli bench`` into FOLDER, which takes hours and is kept. The
first table then has a row for every detector or combination: of each suite for choosing its FPR95
in %, the mean over the OOD sets, fitted on the training images alone. The baseline is the single
detector with the lowest mean. The second table compares it with what was chosen, alone and in
views, on suites that were held back, with 95 % bootstrap intervals of the differences.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import shared_data
from default_suites import (
    CHOOSING,
    REPORTING,
    Array,
    Scores,
    benchmarked,
    layers_of,
    scored,
    views_of,
)
from layer_relevance import layer_deviations

from neroli.benchmark.bootstrap import Resamples, estimate
from neroli.detectors import DEFAULT, Detector, Views, create
from neroli.detectors.catalogue import ready_names
from neroli.errors import NeroliWarning
from neroli.metrics import fpr95

LEFT_OUT = ("weiper_kld", "itp", "corp", DEFAULT)
"""Detectors that take minutes, and the default, which is made of the others here."""
RECIPE = ("cadref", "line", "relative_mahalanobis", "vim")
ALL_LAYERS = "multi_layer_mahalanobis"
MIDDLE = "middle_layer"
"""The same of the layer in the middle alone."""
RELEVANCE = "relevance_of_middle_layer"
"""How unusual the relevance there is."""
PROPAGATED = ("cifar10-resnet20", "medical-mnist")
"""Suites on which relevance is taken to earlier layers, which runs the network backwards."""
RESAMPLES = 1000


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

    def scores(self, suite: Scores, kind: str) -> Array:
        weights = self.weights or (1.0,) * len(self.members)
        parts = [
            w * self._member(suite, m, kind) for m, w in zip(self.members, weights, strict=True)
        ]
        return self.rule(np.stack(parts))

    def _member(self, suite: Scores, name: str, kind: str) -> Array:
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


def raised_by_last(scores: Array) -> Array:
    """The mean of all but the last, which raises it where it is beyond 2."""
    members = scores[:-1]
    return members.mean(axis=0) + np.maximum(scores[-1] - 2, 0) / len(members)


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
    for extra, said in (
        (ALL_LAYERS, "features of all layers"),
        (MIDDLE, "features of a middle layer"),
        (RELEVANCE, "relevance at a middle layer"),
    ):
        members = (*RECIPE, extra)
        half = (*(1.0,) * len(RECIPE), 0.5)
        if extra not in singles:
            found.append(Combination((extra,), said=f"{said} alone"))
        found += [
            Combination(members, said=said),
            Combination(members, half, said=f"{said}, half as heavy"),
            Combination(members, rule=raised_by_last, said=f"{said}, where it is beyond 2"),
        ]
    return found


def fprs(suite: Scores, combination: Combination) -> dict[str, float] | None:
    """FPR95 in % by OOD set; None where a member has no scores."""
    if any(member not in suite.scores for member in combination.members):
        return None
    inside = combination.scores(suite, "test")
    return {kind: 100 * fpr95(inside, combination.scores(suite, kind)) for kind in suite.ood}


def mean_fpr(suite: Scores, combination: Combination) -> float | None:
    """The mean of these over the OOD sets."""
    found = fprs(suite, combination)
    return None if found is None else float(np.mean(list(found.values())))


def compared(suite: Scores, baseline: str) -> dict[str, dict[str, list[float]]]:
    """How well detectors do, and how much better than a baseline.

    Returns:
        By detector and metric (FPR95 and AUROC in %, means over OOD sets) the value, by how much it
        exceeds the baseline's, and the 95 % bootstrap interval of that.
    """
    sizes = {kind: len(suite.predictions[kind]) for kind in suite.ood}
    drawn = Resamples(len(suite.predictions["test"]), sizes, resamples=RESAMPLES)
    found = {
        label: drawn.evaluate(scores["test"], {kind: scores[kind] for kind in suite.ood})
        for label, scores in suite.scores.items()
    }
    figures: dict[str, dict[str, list[float]]] = {label: {} for label in found}
    for metric in ("fpr95", "auroc"):
        values = {label: _mean(getattr(each, f"{metric}_value")) for label, each in found.items()}
        draws = {label: _mean(getattr(each, metric)) for label, each in found.items()}
        for label in found:
            difference = values[label] - values[baseline]
            between = estimate(difference, draws[label] - draws[baseline])
            figures[label][metric] = [values[label], difference, between.low, between.high]
    return figures


def _mean(by_set: Mapping[str, Any]) -> Any:
    """In %, over OOD sets: of values, or of every resample ``[R]``."""
    return 100 * np.mean(list(by_set.values()), axis=0)


def chosen(options: argparse.Namespace, found: dict[str, Any]) -> str:
    """Print the table of what was tried on the suites for choosing; the best single detector."""
    names = [n for n in ready_names() if n not in LEFT_OUT and not create(n).requires.probes]
    suites = []
    for name in CHOOSING:
        folder = benchmarked(name, options.data, options.folder)
        layers = layers_of(folder)
        middle = layers[(len(layers) - 1) // 2]
        subjects = {n: create(n) for n in names if n != ALL_LAYERS}
        subjects[ALL_LAYERS] = create(ALL_LAYERS, layers=layers)
        subjects[MIDDLE] = create(ALL_LAYERS, layers=(middle,))
        suites.append(suite := scored(folder, subjects))
        if name in PROPAGATED:
            file = options.folder / f"{name}.toml"
            suite.scores[RELEVANCE] = layer_deviations(file, middle, options.data, folder)
    everywhere = [n for n in names if all(n in suite.scores for suite in suites)]
    alone = {n: [mean_fpr(s, Combination((n,))) or 0.0 for s in suites] for n in everywhere}
    order = sorted(alone, key=lambda name: np.mean(alone[name]))
    print("| members | what was done |", " | ".join(CHOOSING), f"| mean | ÷ {order[0]} |")
    print("|---|---|" + "---|" * (len(CHOOSING) + 2))
    for combination in experiments(order[:12]):
        values = [mean_fpr(suite, combination) for suite in suites]
        shown = " | ".join("-" if value is None else f"{value:.1f}" for value in values)
        known = [value for value in values if value is not None]
        same = [v for v, value in zip(alone[order[0]], values, strict=True) if value is not None]
        ratio = np.mean(known) / np.mean(same) if known else np.nan
        members = " + ".join(combination.members).replace(" + ".join(RECIPE), "the four")
        print(f"| {members} | {combination.said} | {shown} | {np.mean(known):.1f} | {ratio:.2f} |")
        sets = {suite.suite: fprs(suite, combination) for suite in suites}
        found["choosing"].append(
            {"members": combination.members, "said": combination.said, "fpr95": sets}
        )
    print(f"\n{len(everywhere)} detectors alone, of which the best twelve are shown.\n", flush=True)
    return order[0]


def reported(options: argparse.Namespace, baseline: str, found: dict[str, Any]) -> None:
    """Print the default beside the baseline, first where it was chosen, then where it was not."""
    print("| suite | detector | FPR95 | less baseline's | AUROC | less baseline's |")
    print("|---|---|---|---|---|---|")
    held_back: dict[str, dict[str, float]] = {}
    for name in (*CHOOSING, *REPORTING):
        folder = benchmarked(name, options.data, options.folder)
        subjects: dict[str, Detector] = {}
        for label, detector in ((baseline, baseline), ("the default", DEFAULT)):
            subjects[label] = create(detector)
            subjects[f"{label}, views"] = Views(detector, views_of(name))
        suite = scored(folder, subjects)
        for label, figures in compared(suite, baseline).items():
            cells = [
                f"{v:.1f} | {d:+.1f} ({a:+.1f} to {b:+.1f})" for v, d, a, b in figures.values()
            ]
            print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)
            found["reporting"].append(
                {"suite": name, "detector": label, "held back": name in REPORTING} | figures
            )
            if name in REPORTING:
                held_back.setdefault(label, {})[name] = figures["fpr95"][0]
    for label, ours in held_back.items():
        theirs = held_back[baseline]
        others = ", ".join(f"{_ratio(ours, theirs, name):.2f} without {name}" for name in ours)
        whole = f"{_ratio(ours, theirs):.2f} of the baseline's"
        print(f"held back, {label}: mean FPR95 {whole} ({others})")


def _ratio(ours: dict[str, float], theirs: dict[str, float], without: str = "") -> float:
    """Of mean FPR95, over all suites but one."""
    names = [name for name in ours if name != without]
    return sum(ours[name] for name in names) / sum(theirs[name] for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="of the suites, as of `neroli bench`")
    parser.add_argument("--folder", type=Path, default=Path("default-suites"))
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    options.data = options.data or shared_data()
    warnings.simplefilter("ignore", NeroliWarning)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"choosing": [], "reporting": []}
    baseline = chosen(options, found)
    reported(options, baseline, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
