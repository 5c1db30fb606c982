"""What keeping activations in float16 changes: disk space, scores, AUROC and FPR95.

    python benchmarks/float16_store.py [--every 4] [--detectors one-pass] [--folder FOLDER]

Every registered detector is fitted and scored on the activations of a CIFAR-10 ResNet-20, every
so manieth image: once as computed (float32), once from a float16 store, and once with its features
and taps in float16 but the logits as computed. Changes of scores are in standard deviations of the
detector's scores on ID test images; those of AUROC and FPR95 in points, the largest over the OOD
sets.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import shared_data

from neroli import Activations, ActivationStore, LinearHead, fit
from neroli.activations import ActivationSource
from neroli.benchmark.entries import Entry, entries_of, needed
from neroli.benchmark.isolation import Isolated
from neroli.benchmark.suite import read_suite
from neroli.errors import NeroliWarning
from neroli.metrics import auroc, fpr95
from neroli.store import complete_key
from neroli.store_pruning import pruned

OOD = ("cifar100", "mnist")
SETS = ("train", "test", *OOD)


@dataclass(frozen=True)
class WithLogits:
    """A source with the logits of another of the same images, as a store might keep them."""

    source: ActivationStore
    logits: ActivationStore

    @property
    def num_features(self) -> int:
        return self.source.num_features

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    @property
    def has_labels(self) -> bool:
        return self.source.has_labels

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int = 1024) -> Iterator[Activations]:
        both = zip(self.source.batches(batch_size), self.logits.batches(batch_size), strict=True)
        for batch, other in both:
            yield replace(batch, logits=other.logits)


Scores = Mapping[str, torch.Tensor]


def scored(
    entries: Sequence[Entry], sets: Mapping[str, ActivationSource], head: LinearHead
) -> dict[str, Scores]:
    """Scores on test and OOD images by every detector that can be fitted."""
    learners = fit([Isolated(entry.detector) for entry in entries], sets["train"], head)
    found: dict[str, Scores] = {}
    for entry, learner in zip(entries, learners, strict=True):
        parts = {
            name: [learner.score(batch[:]) for batch in sets[name].batches()] for name in SETS[1:]
        }
        if learner.error:
            print(f"{entry.label}: {learner.error}")
            continue
        found[entry.label] = {
            name: torch.cat([values.double() for values in parts[name]]) for name in parts
        }
    return found


@dataclass(frozen=True)
class Change:
    """What is different: scores in deviations of the ID scores, the others in points."""

    median: float
    largest: float
    auroc: float
    fpr95: float


def change(before: Scores, after: Scores) -> Change:
    moved = torch.cat([(after[name] - before[name]).abs() for name in before])
    spread = before["test"].std().clamp(min=1e-300)
    points = [
        max(
            abs(100 * (f(after["test"], after[name]) - f(before["test"], before[name])))
            for name in OOD
        )
        for f in (auroc, fpr95)
    ]
    return Change(float(moved.median() / spread), float(moved.max() / spread), *points)


def size(store: ActivationStore) -> int:
    return sum(shard.path.stat().st_size for shard in store.shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=4, help="take every so manieth image")
    parser.add_argument("--detectors", default="all", help="all, one-pass or head")
    parser.add_argument("--folder", type=Path, help="where activations are kept")
    options = parser.parse_args()
    from cifar import extract_set

    suite = read_suite("cifar10-resnet20").with_detectors(options.detectors)
    entries, _ = entries_of(suite.rows(), suite.model.layers)
    requires = needed(entries)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NeroliWarning)
        folder = options.folder or Path(temporary)
        plain: dict[str, ActivationStore] = {}
        for name in SETS:
            path = folder / "resnet20" / name
            known = complete_key(path) is not None
            plain[name] = (
                ActivationStore(path)
                if known
                else extract_set(shared_data(), "resnet20", name, folder, requires, options.every)
            )
            print(f"{name}: {len(plain[name]):,} images", flush=True)
        half = {
            name: pruned(store, folder / "half" / name, dtype="float16")
            for name, store in plain.items()
        }
        print(f"space: {sum(map(size, half.values())) / sum(map(size, plain.values())):.3f}")
        flips = [
            sum(int((b.logits.half().argmax(1) != b.predictions).sum()) for b in store.batches())
            for store in plain.values()
        ]
        print(f"predictions changed by logits in float16: {sum(flips)}")
        head = plain["train"].head
        mixed = {name: WithLogits(half[name], plain[name]) for name in SETS}
        before = scored(entries, plain, head)
        kinds = {
            "float16": scored(entries, half, head),
            "float16, logits in float32": scored(entries, mixed, head),
        }
    width = max(map(len, before))
    print(f"{'':{width}}  {'score: median':>13} {'largest':>9} {'AUROC':>8} {'FPR95':>8}")
    for kind, after in kinds.items():
        print(kind)
        both = [label for label in before if label in after]
        changes = {label: change(before[label], after[label]) for label in both}
        for label, c in sorted(changes.items(), key=lambda item: -item[1].auroc):
            print(
                f"{label:{width}}  {c.median:>13.1e} {c.largest:>9.1e} {c.auroc:>8.4f} "
                f"{c.fpr95:>8.3f}"
            )
        for what in ("median", "largest", "auroc", "fpr95"):
            values = [getattr(c, what) for c in changes.values()]
            print(
                f"of {len(values)} detectors, {what}: median {statistics.median(values):.2g}, "
                f"largest {max(values):.2g}"
            )


if __name__ == "__main__":
    main()
