"""Peak anonymous memory of fitting all head-level detectors from a store, few and many images.

    python benchmarks/memory.py [--rows 50000 1000000] [--features 512] [--classes 100]

Writes synthetic stores to a temporary folder (2 GB for a million images) and fits each in a process
of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import PeakMemory

from neroli import Activations, ActivationStore, LinearHead, fit
from neroli.detectors import Detector, catalogue, create
from neroli.store import StoreWriter


def write(path: Path, rows: int, features: int, classes: int) -> None:
    """A store of rectified random features."""
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(classes, features, generator=draw), torch.zeros(classes))
    with StoreWriter(path, head, f"synthetic {rows} {features} {classes}") as writer:
        for start in range(0, rows, 1024):
            count = min(1024, rows - start)
            labels = (torch.arange(count) + start) % classes
            values = torch.randn(count, features, generator=draw) + 0.2 * head.weight[labels]
            writer.append(Activations.from_features(values.clamp(min=0), head, labels))


def head_level() -> list[Detector]:
    """All but WeiPer+KLD, whose perturbed heads would take days for a million images."""
    names = [n for n in catalogue.own_names() if not catalogue.requirements(create(n))]
    return [create(name) for name in names if name != "weiper_kld"]


def fit_and_report(path: Path) -> None:
    """Fit all and print the peak in MB and the time in seconds."""
    store = ActivationStore(path)
    fit([create("nero"), create("line")], next(store.batches()), store.head)  # loads what is late
    start = time.perf_counter()
    with PeakMemory() as memory:
        fit(head_level(), store, store.head)
    print(memory.peak, memory.peak - memory.start, time.perf_counter() - start)


@dataclass(frozen=True)
class Fitted:
    """What fitting from a store took: MB of anonymous memory at most, of which some before the
    fit, and seconds."""

    rows: int
    peak: float
    rise: float
    seconds: float


def fitted(rows: int, features: int, classes: int) -> Fitted:
    """Fitting all from a store, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "store", rows, features, classes)
        command = [sys.executable, __file__, "--fit", f"{folder}/store"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Fitted(rows, *map(float, output.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        fit_and_report(options.fit)
        return
    peaks = []
    for rows in options.rows:
        found = fitted(rows, options.features, options.classes)
        peaks.append(found.peak)
        print(
            f"{rows:>9,} x {options.features}: peak {found.peak:.0f} MB anonymous "
            f"({found.rise:.0f} MB above the start), {found.seconds:.1f} s"
        )
    print(f"ratio of the peaks: {peaks[-1] / peaks[0]:.3f} (bound 1.1)")


if __name__ == "__main__":
    main()
