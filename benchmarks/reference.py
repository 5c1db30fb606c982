"""The six detectors on real networks and images: AUROC, FPR95, and whether the promise holds.

    python benchmarks/reference.py [--network resnet20 densenet100] [--out TABLE.md]

Trained on CIFAR-10; fitted on 10,000 training images; OOD are CIFAR-100 (every second test image)
and MNIST, resized to 32x32. Calibrated on the first half of the CIFAR-10 test images; the share
flagged is of the other half.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common import shared_data
from scipy.stats import binomtest

from neroli import ActivationStore, fit, metrics
from neroli.agreement import label_agreement
from neroli.calibration import Calibration, Promise
from neroli.detectors import MSP, NERO, Detector, Energy, Entropy, LINe, MaxLogit

DETECTORS = {
    "NERO": NERO(),
    "NERO, bare distance": NERO(bias_term=False, low_relevance_norm=False),
    "LINe": LINe(),
    "LINe, published CIFAR-10": LINe.published("cifar10"),
    "MSP": MSP(),
    "MaxLogit": MaxLogit(),
    "Energy": Energy(),
    "Entropy": Entropy(),
}
HEADER = (
    "| detector | CIFAR-100 | MNIST | flagged of the other test half: confidence | average |\n"
    "|---|---|---|---|---|"
)


def quality(detector: Detector, inside: torch.Tensor, store: ActivationStore) -> str:
    """AUROC and FPR95 in %, AUROC with its 95 % bootstrap interval."""
    outside = torch.cat([detector.score(batch) for batch in store.batches()])
    auroc = metrics.interval(metrics.auroc, inside, outside, resamples=200)
    fpr95 = 100 * metrics.fpr95(inside, outside)
    return f"{100 * auroc.value:.1f} ({100 * auroc.low:.1f}-{100 * auroc.high:.1f}) / {fpr95:.1f}"


def flagged(scores: torch.Tensor, predictions: torch.Tensor, promise: Promise) -> str:
    """Share of the second half flagged, calibrated on the first, with its 95 % interval."""
    half = len(scores) // 2
    calibration = Calibration(scores[:half], predictions[:half], 10, promise)
    count = int(calibration.is_ood(scores[half:], predictions[half:]).sum())
    interval = binomtest(count, len(scores) - half).proportion_ci()
    share = count / (len(scores) - half)
    return f"{share:.2%} ({interval.low:.2%}-{interval.high:.2%})"


def table(network: str, stores: dict[str, ActivationStore]) -> str:
    """A Markdown table of all detectors on one network."""
    fit(list(DETECTORS.values()), stores["train"], stores["train"].head)
    test = stores["test"].load()
    agreement = label_agreement(test)
    assert agreement is not None
    rows = [f"\n**{network}**, test accuracy {agreement.accuracy:.2%}\n", HEADER]
    for name, detector in DETECTORS.items():
        inside = detector.score(test)
        cells = [quality(detector, inside, stores[ood]) for ood in ("cifar100", "mnist")]
        promises = (Promise(0.05, "confidence"), Promise(0.05, "average"))
        cells += [flagged(inside, test.predictions, promise) for promise in promises]
        rows.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(rows)


if __name__ == "__main__":
    from cifar import NETWORKS, extract_sets

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            table(network, extract_sets(shared_data(), network, Path(folder)))
            for network in options.network
        ]
    print("\n".join(tables))
    if options.out:
        options.out.write_text("\n".join(tables) + "\n")
