"""Every detector on real networks and images: AUROC and FPR95 in %.

    python benchmarks/all_detectors.py [--network resnet20] [--every 1] [--out TABLE.md]

Trained on CIFAR-10; fitted together on 10,000 training images, with their defaults. Near OOD:
CIFAR-100 (every second test image) and Tiny-ImageNet; far: MNIST and Medical-MNIST, all resized to
32x32. Detectors that run the network again are fitted and scored on every so manieth image of each
set (--every).
"""

from __future__ import annotations

import argparse
import functools
import operator
import tempfile
import time
from pathlib import Path

import torch
from common import shared_data

from neroli import ActivationStore, fit, metrics
from neroli.detectors import Detector, catalogue, create
from neroli.taps import NOTHING, Requirements

OUTSIDE = ("cifar100", "tiny-imagenet", "mnist", "medical")
Stores = dict[str, ActivationStore]


def in_one_run(stages: tuple[str, ...]) -> list[Detector]:
    """The detectors for which one run of the network is enough, those of layers on its stages."""
    every = [create(name) for name in catalogue.own_names()]
    head_level = [d for d in every if not catalogue.requirements(d)]
    layered = [create(n, layers=stages) for n in ("multi_layer_mahalanobis", "gram")]
    return [*head_level, *layered, create("nap")]


def running_again(stages: tuple[str, ...]) -> list[Detector]:
    """The others. These networks have a stage less than those that NAC-UE's settings are for."""
    nac_ue = create(
        "nac_ue",
        layers=stages[:2],
        bins=(500, 500, 50),
        full=(100, 100, 50),
        alpha=(0.001, 1000, 100),
    )
    rank_feat = create("rank_feat", layers=(stages[2], stages[1]))
    return [create("odin"), create("i_odin"), rank_feat, nac_ue]


def needed(detectors: list[Detector], *, to_fit: bool) -> Requirements:
    """What several detectors need."""
    each = (d.requires_to_fit if to_fit else d.requires for d in detectors)
    return functools.reduce(operator.or_, each, NOTHING)


def figures(detectors: list[Detector], stores: Stores) -> dict[str, list[tuple[float, float]]]:
    """AUROC and FPR95 in % on every set outside, by detector."""

    def scores(detector: Detector, name: str) -> torch.Tensor:
        return torch.cat([detector.score(batch) for batch in stores[name].batches()])

    found = {}
    for detector in fit(detectors, stores["train"], stores["train"].head):
        inside = scores(detector, "test")
        outside = [scores(detector, name) for name in OUTSIDE]
        found[detector.name] = [
            (100 * metrics.auroc(inside, far), 100 * metrics.fpr95(inside, far)) for far in outside
        ]
    return found


def table(rows: dict[str, list[tuple[float, float]]], marked: set[str]) -> str:
    """A Markdown table, the best mean AUROC first."""
    lines = [f"| detector | {' | '.join(OUTSIDE)} |", "|---|" + "---|" * len(OUTSIDE)]
    for name, cells in sorted(rows.items(), key=lambda row: -sum(auroc for auroc, _ in row[1])):
        shown = " | ".join(f"{auroc:.1f} / {fpr:.1f}" for auroc, fpr in cells)
        lines.append(f"| `{name}`{' *' * (name in marked)} | {shown} |")
    return "\n".join(lines)


def measure(network: str, every: int, folder: Path) -> str:
    """The table of one network, with a line on top."""
    from cifar import STAGES, extract_set

    rows: dict[str, list[tuple[float, float]]] = {}
    start = time.perf_counter()
    for number, detectors in enumerate((in_one_run, running_again)):
        asked = detectors(STAGES[network])
        stores = {
            name: extract_set(
                shared_data(),
                network,
                name,
                folder / str(number),
                needed(asked, to_fit=name == "train"),
                every=every if number else 1,
            )
            for name in ("train", "test", *OUTSIDE)
        }
        rows |= figures(asked, stores)
    again = {detector.name for detector in running_again(STAGES[network])}
    minutes = (time.perf_counter() - start) / 60
    note = f"; * on every {every}th image" if every > 1 else ""
    return f"**{network}** ({len(rows)} detectors, {minutes:.0f} minutes{note})\n\n" + table(
        rows, again if every > 1 else set()
    )


if __name__ == "__main__":
    from cifar import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = [measure(name, options.every, Path(folder)) for name in options.network]
    print("\n\n".join(tables))
    if options.out:
        options.out.write_text("\n\n".join(tables) + "\n")
