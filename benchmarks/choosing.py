"""What a choice of a detector without OOD data costs: its regret on OOD sets that it never saw.

    python benchmarks/choosing.py BENCH [BENCH ...] [--data DATA] [--held-out train] [--json]

BENCH are folders of ``neroli bench --tune``, whose activations are read: of ID images, of OOD sets
and of corrupted ID images. Held-out images, by which the choice is made, are the calibration images
of the suite; or else half of its ID test images, drawn by their content, of which the other half is
used for the truth. Those that are corrupted then go through the network anew, for which the images
and weights must be below DATA as they were for the benchmark; without it the corrupted training
images of the search serve. With ``--held-out train`` a fifth of the training images are held out,
as in that search; the network has seen these, which shows what comes of such a mistake.

The truth of a detector is its mean FPR95 and AUROC over the suite's OOD sets; the regret of a
choice is its FPR95 less that of the best detector compared, in points. Rank correlations are
between the objective and the truth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from neroli import ActivationStore, extract
from neroli.activations import ActivationSource, Rows
from neroli.benchmark.images import benchmark_images
from neroli.benchmark.model import classifier_of
from neroli.benchmark.proxies import held_out_scores
from neroli.benchmark.searching import HELD_OUT, some_pictures
from neroli.benchmark.suite import read_suite
from neroli.choosing import choose, detectors_named
from neroli.data.corruptions import corrupted
from neroli.detectors import DEFAULT, create
from neroli.errors import NeroliWarning
from neroli.metrics import auroc, fpr95
from neroli.overlap import seeded_half

METRICS = (fpr95, auroc)


@dataclass(frozen=True, eq=False)
class Sets:
    """The images of a suite, as the choice and as the truth see them."""

    train: ActivationSource
    held_out: ActivationSource
    test: ActivationSource
    corrupted: ActivationStore
    ood: dict[str, ActivationStore]
    stores: dict[str, ActivationStore]


@dataclass(frozen=True)
class Truth:
    """Means over the OOD sets, in %."""

    fpr95: float
    auroc: float


def sets_of(folder: Path, held_out: str, data: Path | None) -> Sets:
    """The activations of a benchmark."""
    where = next((path.parent for path in sorted(folder.glob("activations/*/train*"))), None)
    if where is None:
        sys.exit(f"{folder}: no activations of training images; run neroli bench --tune there.")
    stores = {path.name: ActivationStore(path) for path in sorted(where.iterdir()) if path.is_dir()}
    named = {name.split("-")[0]: store for name, store in stores.items()}
    train, test, calibration = named["train"], named["test"], named.get("calibration")
    rows = seeded_half(test.digests(), torch.ones(len(test), dtype=torch.bool))
    parts: tuple[ActivationSource, ActivationSource, ActivationSource]
    if held_out == "train":
        every = torch.arange(len(train)) % HELD_OUT == 0
        parts = Rows(train, ~every), Rows(train, every), test
    elif calibration is not None:
        parts = train, calibration, test
    else:
        parts = train, Rows(test, rows), Rows(test, ~rows)
    spoiled = ActivationStore(folder / "activations" / "corrupted")
    if data is not None and isinstance(parts[1], Rows) and held_out != "train":
        spoiled = corrupted_test_images(folder, data, test, rows)
    return Sets(
        *parts,
        corrupted=spoiled,
        ood={name: store for name, store in stores.items() if name.startswith("ood-")},
        stores=stores,
    )


def corrupted_test_images(
    folder: Path, data: Path, test: ActivationStore, rows: torch.Tensor
) -> ActivationStore:
    """The activations of some ID test images corrupted, kept beside those of the benchmark."""
    suite = read_suite(json.loads((folder / "results.json").read_text())["suite"])
    images = benchmark_images(suite, data)
    classifier = classifier_of(suite, images, data, folder)
    pictures = corrupted(some_pictures(images.test, test, rows))
    return extract(classifier, pictures, folder / "activations" / "corrupted-test")


def truth_of(names: list[str], sets: Sets) -> dict[str, Truth]:
    """How well the detectors tell the OOD sets from ID test images."""
    head = next(iter(sets.stores.values())).head
    found = held_out_scores(
        [create(name) for name in names],
        sets.train,
        head,
        sets.held_out,
        {"test": sets.test, **sets.ood},
    )
    truths = {}
    for name, scores in zip(names, found, strict=True):
        if not isinstance(scores, str):
            pairs = [(scores["test"], scores[each]) for each in sets.ood]
            truths[name] = Truth(
                *(100 * float(np.mean([metric(*pair) for pair in pairs])) for metric in METRICS)
            )
    return truths


def report(
    folder: Path, held_out: str, data: Path | None, detectors: str | None
) -> dict[str, object]:
    """What was chosen for a suite, and what that cost."""
    sets = sets_of(folder, held_out, data)
    head = next(iter(sets.stores.values())).head
    start = time.perf_counter()
    choice = choose(head, sets.train, sets.held_out, sets.corrupted, detectors_named(detectors))
    seconds = time.perf_counter() - start
    names = [each.detector for each in choice.ranked]
    truths = truth_of(names, sets)
    best = min(truths, key=lambda name: truths[name].fpr95)
    objective = [each.objective.value for each in choice.ranked]
    low = truths[best].fpr95
    correlations = {
        f"{kind}_{metric}": float(
            test(objective, [sign * getattr(truths[n], metric) for n in names])[0]
        )
        for kind, test in (("spearman", spearmanr), ("kendall", kendalltau))
        for metric, sign in (("fpr95", -1), ("auroc", 1))
    }
    return {
        "suite": folder.name.removesuffix("-bench"),
        "detectors": len(names),
        "folds": choice.folds,
        "recommended": choice.recommended,
        "fpr95": truths[choice.recommended].fpr95,
        "regret": truths[choice.recommended].fpr95 - low,
        "default": DEFAULT,
        "default_regret": truths[DEFAULT].fpr95 - low,
        "first": names[0],
        "first_regret": truths[names[0]].fpr95 - low,
        "best": best,
        "best_fpr95": low,
        "median_regret": float(np.median([truths[n].fpr95 for n in names])) - low,
        "alike": choice.alike,
        **correlations,
        "seconds": seconds,
        "choice": choice.model_dump(mode="json"),
        "truth": {name: asdict(truth) for name, truth in truths.items()},
    }


COLUMNS = (
    ("suite", "suite"),
    ("recommended", "recommended"),
    ("fpr95", "its FPR95"),
    ("best", "best in truth"),
    ("best_fpr95", "its FPR95"),
    ("regret", "regret"),
    ("default_regret", "default's"),
    ("first", "first by objective"),
    ("first_regret", "its regret"),
    ("median_regret", "median's"),
    ("spearman_fpr95", "Spearman FPR95"),
    ("spearman_auroc", "AUROC"),
    ("kendall_fpr95", "Kendall FPR95"),
    ("kendall_auroc", "AUROC"),
    ("seconds", "seconds"),
)


def cell(key: str, value: object) -> str:
    decimals = 2 if key.startswith(("spearman", "kendall")) else 0 if key == "seconds" else 1
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="of the suites, to corrupt held-out images")
    parser.add_argument("--held-out", choices=("unseen", "train"), default="unseen")
    parser.add_argument("--detectors", help="as of `neroli choose`")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NeroliWarning)
    found = [
        report(each, arguments.held_out, arguments.data, arguments.detectors)
        for each in arguments.folders
    ]
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print("| " + " | ".join(title for _, title in COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for each in found:
        print("| " + " | ".join(cell(key, each[key]) for key, _ in COLUMNS) + " |")
    for each in found:
        print(f"\n{each['suite']}: {each['choice']['reason']}")
        for warning in each["choice"]["warnings"]:
            print(f"Warning: {warning}")


if __name__ == "__main__":
    main()
