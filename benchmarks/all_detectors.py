"""Every head-level detector on real networks and images: AUROC and FPR95 in %.

    python benchmarks/all_detectors.py [--network resnet20] [--out TABLE.md]

Trained on CIFAR-10; fitted together on 10,000 training images, with their defaults. Near OOD:
CIFAR-100 (every second test image) and Tiny-ImageNet; far: MNIST and Medical-MNIST, all resized to
32x32.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from common import shared_data

from neroli import ActivationStore, extract, fit, metrics
from neroli.data.tars import ImageTar
from neroli.detectors import Detector, catalogue, create

TARS = {"tiny-imagenet": "tiny_imagenet_3000.tar", "medical": "medical_mnist.tar"}
SETS = ("cifar100", "tiny-imagenet", "mnist", "medical")


def head_level() -> list[Detector]:
    """The detectors that need nothing but features, logits and head."""
    every = [create(name) for name in catalogue.own_names()]
    return [d for d in every if not catalogue.requirements(d)]


def scores(detector: Detector, store: ActivationStore) -> torch.Tensor:
    return torch.cat([detector.score(batch) for batch in store.batches()])


def table(network: str, stores: dict[str, ActivationStore]) -> str:
    """A Markdown table of all detectors on one network, the best mean AUROC first."""
    start = time.perf_counter()
    detectors = fit(head_level(), stores["train"], stores["train"].head)
    seconds = time.perf_counter() - start
    rows = []
    for detector in detectors:
        inside = scores(detector, stores["test"])
        cells = []
        for name in SETS:
            outside = scores(detector, stores[name])
            auroc, fpr95 = metrics.auroc(inside, outside), metrics.fpr95(inside, outside)
            cells.append((100 * auroc, 100 * fpr95))
        rows.append((detector.name, cells))
    rows.sort(key=lambda row: -sum(auroc for auroc, _ in row[1]))
    lines = [
        f"\n**{network}** ({len(detectors)} detectors fitted together in {seconds:.0f} s)\n",
        f"| detector | {' | '.join(SETS)} |",
        "|---|" + "---|" * len(SETS),
    ]
    for name, cells in rows:
        figures = " | ".join(f"{auroc:.1f} / {fpr:.1f}" for auroc, fpr in cells)
        lines.append(f"| `{name}` | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from cifar import NETWORKS, extract_sets, load_classifier

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.network:
            stores = extract_sets(shared_data(), network, Path(folder))
            classifier = load_classifier(shared_data(), network)
            for name, file in TARS.items():
                source = ImageTar(shared_data() / "data" / file).unlabelled()
                stores[name] = extract(classifier, source, Path(folder) / network / name)
            tables.append(table(network, stores))
    print("\n".join(tables))
    if options.out:
        options.out.write_text("\n".join(tables) + "\n")
