"""What ONNX Runtime changes: how fast features are extracted, and what that does to scores.

    python benchmarks/onnx_runtime.py [--images 32] [--rounds 7] [--threads 2] [--json FILE]

Networks have random weights, images are noise. Both extract the same batches in turn, in one
process; differences are the largest over new images, as a share of the largest value.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import paired_ratio
from torch import Tensor, nn

from neroli import Activations, Classifier, export_onnx, fit, load_classifier
from neroli.detectors import KNN, MSP, NERO, Detector, LINe
from neroli.models import import_torchvision

BATCHES = (1, 32)
_NEW = 32
"""Images that differences are measured on."""
_TRAINING = 2000
"""Rows that detectors are fitted on: noise, spread as the network's features of images are."""


def resnet18() -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.resnet18(num_classes=100)
    return model


def deit_small() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("deit_small_patch16_224", num_classes=100)
    return model


def resnet20() -> nn.Module:
    from networks import untrained_resnet20

    return untrained_resnet20()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "ResNet-18 at 224": (resnet18, 224, 1),
    "DeiT-S at 224": (deit_small, 224, 1),
    "ResNet-20 at 32": (resnet20, 32, 32),
}
"""How each is made, the side of its images, and how many times as many images it is given."""


def extracted(classifier: Classifier, batches: list[Tensor]) -> Activations:
    found = [classifier(batch) for batch in batches]
    return Activations(
        torch.cat([batch.features for batch in found]), torch.cat([batch.logits for batch in found])
    )


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compared(network: Classifier, runtime: Classifier, side: int) -> dict[str, float]:
    """The largest differences of features, logits and scores."""
    draw = torch.Generator().manual_seed(1)
    images = list(torch.randn(_NEW, 3, side, side, generator=draw).split(32))
    theirs, ours = (extracted(each, images) for each in (network, runtime))
    head, (mean, std) = network.head, (theirs.features.mean(0), theirs.features.std(0))
    noise = torch.randn(_TRAINING, head.num_features, generator=draw)
    labels = torch.arange(_TRAINING) % head.num_classes
    detectors: list[Detector] = [NERO(), LINe(), KNN(), MSP()]
    fit(detectors, Activations.from_features(mean + std * noise, head, labels), head)
    found = {
        "features": relative(ours.features, theirs.features),
        "logits": relative(ours.logits, theirs.logits),
    }
    return found | {d.name: relative(d.score(ours), d.score(theirs)) for d in detectors}


def measured(name: str, images: int, rounds: int) -> dict[str, Any]:
    """Of one network: throughput by ONNX Runtime ÷ by torch for each size of batch, differences."""
    make, side, times = NETWORKS[name]
    torch.manual_seed(0)
    network = Classifier(make().eval())
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, Path(folder) / "m.onnx", torch.randn(8, 3, side, side))
        runtime = load_classifier(f"onnx:{folder}/m.onnx")
        throughput = {}
        for size in BATCHES:
            batches = list(torch.randn(times * images, 3, side, side).split(size))
            jobs = [partial(extracted, each, batches) for each in (network, runtime)]
            throughput[str(size)] = paired_ratio(*jobs, rounds)
        return {"throughput": throughput, "differences": compared(network, runtime, side)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    import_torchvision()
    results = {}
    for name in NETWORKS:
        result = results[name] = measured(name, arguments.images, arguments.rounds)
        print(f"{name}, {arguments.threads} threads")
        for size, (median, least, most) in result["throughput"].items():
            what = f"  throughput / torch eager, batches of {size}"
            print(f"{what:<46} {median:6.3f}  ({least:.3f} to {most:.3f})")
        for what, difference in result["differences"].items():
            print(f"  {'difference in ' + what:<44} {difference:.1e}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, **results}, indent=2))


if __name__ == "__main__":
    main()
