"""How many images a second go through the network, and what ways of running it do to scores.

    python benchmarks/throughput.py [--images 128] [--rounds 5] [--scored 2000] [--json FILE]

Speed: extraction from JPEG files beside a bare PyTorch loop over the same files, and beside one
with the workers of a DataLoader, all in turn in one process, at 224 pixels on random weights.
Scores: detectors fitted on a CIFAR-10 network as it is and scoring in another way, and fitted and
scoring in that way. Half precision takes long on processors without instructions for it: --half
says where it is measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ratios_in_turn, shared_data, spread
from loading import IMAGENET, write_jpegs
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from neroli import Activations, Classifier, fit, metrics
from neroli.data.folders import ImageFolder
from neroli.detectors import KNN, MSP, NERO, Detector, LINe, Mahalanobis
from neroli.execution import AS_IT_IS, Execution
from neroli.extraction import stream
from neroli.models import import_torchvision

PLAIN = {
    "as it is": AS_IT_IS,
    "channels last": Execution(channels_last=True),
    "compiled": Execution(compile=True),
    "channels last, compiled": Execution(channels_last=True, compile=True),
}
HALF = {
    "channels last, bfloat16": Execution("bfloat16", channels_last=True),
    "channels last, float16": Execution("float16", channels_last=True),
}
BATCH = 32
SIZE = (500, 375)
"""Pixels of the files, as photographs in benchmarks have."""


class Files(Dataset[Tensor]):
    """What a user of PyTorch would write."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        with Image.open(self.paths[position]) as picture:
            return IMAGENET(picture.convert("RGB"))


def bare(model: nn.Module, folder: Path, workers: int) -> None:
    with torch.inference_mode():
        for batch in DataLoader(Files(folder), BATCH, num_workers=workers):
            model(batch)


def pictures(folder: Path, workers: int) -> ImageFolder:
    source = ImageFolder(folder)
    source.workers = workers
    return source


def read(folder: Path, workers: int) -> None:
    for _ in pictures(folder, workers).batches(IMAGENET, BATCH):
        pass


def extracted(classifier: Classifier, folder: Path, workers: int = 2) -> None:
    source = pictures(folder, workers)
    for _ in stream(classifier, source, batch_size=BATCH, progress=False):
        pass


def networks() -> Iterator[tuple[str, nn.Module]]:
    import_torchvision()
    import timm
    import torchvision

    torch.manual_seed(0)
    yield "ResNet-18", torchvision.models.resnet18(weights=None).eval()
    yield "DeiT-S", timm.create_model("deit_small_patch16_224", pretrained=False).eval()


def speeds(images: int, rounds: int, ways: dict[str, Execution]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_jpegs(folder, images, SIZE)
        reading = {f"{n} threads": partial(read, folder, n) for n in (2, 4)}
        print("reading alone: images/s over those of one thread; median (lowest to highest)")
        for job, ratios in ratios_in_turn(reading, partial(read, folder, 1), rounds).items():
            over_one = spread([1 / ratio for ratio in ratios])
            print(f"{job:<34} {show(over_one)}", flush=True)
            rows.append({"network": None, "job": f"reading, {job}", "one thread": over_one})
        for name, model in networks():
            jobs: dict[str, Callable[[], object]] = {
                "PyTorch with 2 workers": partial(bare, model, folder, 2)
            }
            for way, execution in ways.items():
                classifier = Classifier(model, preprocessing=IMAGENET, execution=execution)
                jobs[f"neroli, {way}"] = partial(extracted, classifier, folder)
            classifier = Classifier(model, preprocessing=IMAGENET)
            jobs["neroli, as it is, 1 reading thread"] = partial(extracted, classifier, folder, 1)
            found = ratios_in_turn(jobs, partial(bare, model, folder, 0), rounds)
            loader = found["PyTorch with 2 workers"]
            print(f"\n{name} at 224, {images} JPEG files: images/s over those of a bare loop,")
            print("and of one with 2 workers; median (lowest to highest)")
            for job, ratios in found.items():
                to_bare = spread([1 / ratio for ratio in ratios])
                to_loader = spread([w / r for w, r in zip(loader, ratios, strict=True)])
                print(f"{job:<34} {show(to_bare)}   {show(to_loader)}", flush=True)
                rows.append({"network": name, "job": job, "bare": to_bare, "workers": to_loader})
    return rows


def show(values: tuple[float, float, float]) -> str:
    return "{:6.3f} ({:.3f} to {:.3f})".format(*values)


def detectors() -> list[Detector]:
    return [NERO(), LINe(), MSP(), KNN(), Mahalanobis()]


def changes(network: str, count: int, ways: dict[str, Execution]) -> list[dict[str, Any]]:
    """What each way of running a network changes in scores, and in what they tell apart."""
    from cifar import extract_set

    shared = shared_data()
    every = {"train": 10_000 // count or 1, "test": 10_000 // count or 1}
    every["cifar100"] = max(1, 5_000 // count)

    def activations(execution: Execution) -> tuple[Any, dict[str, Activations]]:
        with tempfile.TemporaryDirectory() as folder:
            stores = {
                name: extract_set(
                    shared, network, name, Path(folder), every=step, execution=execution
                )
                for name, step in every.items()
            }
            return stores["test"].head, {name: store.load() for name, store in stores.items()}

    head, plain = activations(AS_IT_IS)
    fitted = fit(detectors(), plain["train"], head)
    rows = []
    print(
        f"\n{network}, {len(plain['test'])} ID and {len(plain['cifar100'])} OOD images (CIFAR-100)"
    )
    print("|change of score| / spread of ID scores, median and largest; flagged ID images at the")
    print("threshold that flags 5 %; AUROC and FPR95 in points, scored so, and fitted so too")
    for way, execution in ways.items():
        _, other = activations(execution)
        refitted = fit(detectors(), other["train"], head)
        for detector, again in zip(fitted, refitted, strict=True):
            row = change(detector, again, plain, other)
            rows.append({"network": network, "way": way, "detector": detector.name, **row})
            print(
                f"{way:<24} {detector.name:<12} {row['median']:.1e} {row['largest']:.1e}  "
                f"{row['flagged']:6.2%}   AUROC {row['auroc']:+.3f} {row['auroc_refitted']:+.3f}  "
                f"FPR95 {row['fpr95']:+.3f} {row['fpr95_refitted']:+.3f}",
                flush=True,
            )
    return rows


def change(
    detector: Detector,
    again: Detector,
    plain: dict[str, Activations],
    other: dict[str, Activations],
) -> dict[str, float]:
    def scores(by: Detector, sets: dict[str, Activations]) -> tuple[Any, Any]:
        inside, outside = (by.score(sets[name]).double().numpy() for name in ("test", "cifar100"))
        return inside, outside

    before, moved, refitted = scores(detector, plain), scores(detector, other), scores(again, other)
    apart = np.abs(moved[0] - before[0]) / before[0].std()
    row = {
        "median": float(np.median(apart)),
        "largest": float(apart.max()),
        "flagged": float((moved[0] > np.quantile(before[0], 0.95)).mean()),
    }
    for name, metric in (("auroc", metrics.auroc), ("fpr95", metrics.fpr95)):
        row[name] = 100 * (metric(*moved) - metric(*before))
        row[f"{name}_refitted"] = 100 * (metric(*refitted) - metric(*before))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="files; 0 leaves the speeds out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scored", type=int, default=2000, help="0 leaves the scores out")
    parser.add_argument("--networks", nargs="*", default=["resnet20", "densenet100"])
    parser.add_argument("--half", choices=("none", "scores", "both"), default="scores")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"speeds": [], "scores": []}
    if options.images:
        ways = PLAIN | (HALF if options.half == "both" else {})
        found["speeds"] = speeds(options.images, options.rounds, ways)
    if options.scored:
        ways = {name: way for name, way in PLAIN.items() if way != AS_IT_IS}
        ways |= {} if options.half == "none" else HALF
        for network in options.networks:
            found["scores"] += changes(network, options.scored, ways)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
