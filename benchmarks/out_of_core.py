"""Fitting and scoring from a store on disk: time and memory as the number of rows grows.

    python benchmarks/out_of_core.py [--rows 10000 100000 1000000] [--features 512] [--classes 100]
    python benchmarks/out_of_core.py --imagenet [--folder FOLDER]

Every detector is fitted on a synthetic store in a process of its own, and scores it. Memory is
anonymous: pages of the mapped files do not count, the kernel drops them when memory is short. The
exponent is the slope of log(time) over log(rows): 1 is linear. ``--imagenet`` is 1.28 million
images of 2,048 features and 1,000 classes in a float16 store of 8 GB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import PeakMemory
from torch.nn import functional

from neroli import Activations, ActivationStore, Classifier, Guard, LinearHead, fit
from neroli.data.sources import ImageBatch
from neroli.detectors import Detector, catalogue, create
from neroli.errors import NeroliWarning
from neroli.files import DIGEST_BYTES
from neroli.overlap import TrainingImages
from neroli.store import Origin, StoreWriter, complete_key
from neroli.store_precision import StoreDtype

IMAGENET = (1_281_167, 2048, 1000)
IMAGENET_DETECTORS = ("nero", "line", "energy", "react", "mahalanobis", "vim", "knn")
TOGETHER = "all together"
GUARD = "guard"
SCORED = 100_000
"""Rows that are scored at most."""


def classifier_of(features: int, classes: int) -> Classifier:
    """A network that is nothing but its head."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, classes))
    return Classifier(model.eval(), "1")


def write(
    path: Path, rows: int, features: int, classes: int, dtype: StoreDtype | None
) -> ActivationStore:
    """A store of rectified random features around one centre a class."""
    classifier = classifier_of(features, classes)
    head = LinearHead(classifier.model[1].weight, classifier.model[1].bias)  # type: ignore[index]
    key = f"synthetic {rows} {features} {classes} {dtype}"
    if complete_key(path) == key:
        return ActivationStore(path)
    draw = torch.Generator().manual_seed(0)
    centres = functional.normalize(head.weight) * 2
    origin = Origin(classifier.weights_hash(), "1", "tensor", class_names=None)
    with StoreWriter(path, head, key, origin, dtype=dtype, anew=True) as writer:
        for start in range(0, rows, 1024):
            count = min(1024, rows - start)
            labels = (torch.arange(count) + start) % classes
            values = torch.randn(count, features, generator=draw) + centres[labels]
            digests = torch.randint(
                0, 256, (count, DIGEST_BYTES), generator=draw, dtype=torch.uint8
            )
            names = tuple(str(position) for position in range(start, start + count))
            empty = torch.empty(0)
            images = ImageBatch(empty, labels, names, digests, None, (), start + count)
            found = Activations.from_features(values.clamp(min=0), head, labels, images.ids)
            writer.append(found, images)
    return ActivationStore(path)


def head_level() -> list[Detector]:
    """All but WeiPer+KLD, whose perturbed heads would take days for a million images."""
    names = [n for n in catalogue.ready_names() if not catalogue.requirements(create(n))]
    return [create(name) for name in names if name != "weiper_kld"]


@dataclass(frozen=True)
class Cost:
    """Seconds (of scoring, per 1,000 rows) and MB of anonymous memory above the start."""

    what: str
    rows: int
    fit_seconds: float
    fit_memory: float
    score_seconds: float
    score_memory: float


def measured(what: str, path: Path) -> Cost:
    """Fit and score; a guard is fitted, calibrated on the same store and streams verdicts."""
    store = ActivationStore(path)
    few = Activations.concatenate(list(itertools.islice(store.batches(), 2)))
    fit([create("nero")], few, store.head)  # loads what is loaded late
    start = time.perf_counter()
    with PeakMemory() as fitting:
        if what == GUARD:
            guard = Guard(classifier_of(store.num_features, store.num_classes), create("energy"))
            guard.fit(store)
            known = guard.known.digests  # of others: the same store must do for calibration
            guard.known = TrainingImages(255 - known)
            guard.calibrate(store)
        else:
            detectors = head_level() if what == TOGETHER else [create(what)]
            fit(detectors, store, store.head)
    fitted = time.perf_counter()
    done = 0
    with PeakMemory() as scoring:
        if what == GUARD:
            for verdicts in guard.stream(store, progress=False):
                done += len(verdicts.ids)
        else:
            for batch in store.batches(256):
                for detector in detectors:
                    detector.score(batch)
                done += len(batch)
                if done >= (2048 if what == TOGETHER else SCORED):
                    break
    seconds = time.perf_counter() - fitted
    return Cost(
        what,
        len(store),
        fitted - start,
        fitting.peak - fitting.start,
        1000 * seconds / done,
        scoring.peak - scoring.start,
    )


def run_apart(what: str, path: Path, limit: float | None = None) -> Cost:
    """The same in a process of its own.

    Raises:
        subprocess.TimeoutExpired: if it takes longer than the limit, in seconds.
    """
    command = [sys.executable, __file__, "--measure", what, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit)
    return Cost(**json.loads(done.stdout))


def exponent(costs: Sequence[Cost]) -> str:
    """The slope of log(time) over log(rows), from the two largest."""
    if len(costs) < 2:
        return ""
    one, other = costs[-2:]
    slope = math.log(other.fit_seconds / one.fit_seconds) / math.log(other.rows / one.rows)
    return f"  time grows with rows to the {slope:.2f}"


def report(cost: Cost) -> str:
    return (
        f"{cost.what:<24} {cost.rows:>10,}  fit {cost.fit_seconds:>8.1f} s "
        f"{cost.fit_memory:>7.0f} MB  score {cost.score_seconds:>8.3f} s per 1,000 "
        f"{cost.score_memory:>6.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--only", nargs="+", help="detectors, 'all together' or 'guard'")
    parser.add_argument("--folder", type=Path, help="where stores are kept for another run")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for each, then skipped")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        warnings.simplefilter("ignore", NeroliWarning)
        print(json.dumps(asdict(measured(options.measure[0], Path(options.measure[1])))))
        return
    sizes = [(rows, options.features, options.classes) for rows in options.rows]
    dtype: StoreDtype | None = None
    subjects = [detector.name for detector in head_level()]
    subjects = [GUARD, TOGETHER, *subjects]
    if options.imagenet:
        sizes, dtype, subjects = [IMAGENET], "float16", [GUARD, *IMAGENET_DETECTORS]
    subjects = options.only or subjects
    found: dict[str, list[Cost]] = {what: [] for what in subjects}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for rows, features, classes in sizes:
            bytes_each = (features + classes) * (4 if dtype is None else 2) + 80
            if shutil.disk_usage(folder).free < 1.1 * rows * bytes_each:
                sys.exit(f"{rows:,} rows need {rows * bytes_each / 1e9:.1f} GB in {str(folder)!r}")
            start = time.perf_counter()
            path = folder / f"{rows}x{features}"
            store = write(path, rows, features, classes, dtype)
            size = sum(shard.path.stat().st_size for shard in store.shards)
            seconds = time.perf_counter() - start
            print(f"{rows:,} x {features}, {classes} classes: {size / 1e9:.2f} GB, {seconds:.0f} s")
            for what in subjects:
                try:
                    cost = run_apart(what, path, options.limit)
                except subprocess.TimeoutExpired:
                    print(f"{what:<24} {rows:>10,}  takes more than {options.limit:.0f} s")
                    continue
                found[what].append(cost)
                print(report(cost) + exponent(found[what]), flush=True)
            if options.folder is None:
                shutil.rmtree(path)
    if options.json:
        options.json.write_text(json.dumps([asdict(c) for each in found.values() for c in each]))


if __name__ == "__main__":
    main()
