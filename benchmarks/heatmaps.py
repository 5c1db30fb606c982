"""What a heat map costs beside one forward pass, and how much relevance arrives at the pixels.

    python benchmarks/heatmaps.py [--rounds 5] [--threads 1]

Random weights, or the trained CIFAR-10 networks where the real data are. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from common import ratios_in_turn, spread
from torch import nn

from neroli import Classifier
from neroli.explain import of_prediction
from neroli.models import import_torchvision

BATCH = 4
BOUND = 10


def networks() -> list[tuple[str, nn.Module, int]]:
    """Name, network and side of the images."""
    import_torchvision()
    import timm

    from neroli.models.cifar import DenseNet100

    return [
        ("ResNet-18", timm.create_model("resnet18", pretrained=False), 224),
        ("DeiT-S", timm.create_model("deit_small_patch16_224", pretrained=False), 224),
        ("DenseNet-100", DenseNet100(), 32),
    ]


@dataclass(frozen=True)
class Timed:
    """Heat maps of a network over its forward pass: of each round, and how they were made."""

    network: str
    side: int
    method: str
    rules: str
    ratios: list[float]


def timings(rounds: int) -> Iterator[Timed]:
    """Of every network in turn."""
    for name, model, side in networks():
        classifier = Classifier(model.eval())
        images = torch.randn(BATCH, 3, side, side)
        heatmap = of_prediction(classifier, images)

        def forward(model: nn.Module = model, images: torch.Tensor = images) -> None:
            with torch.no_grad():
                model(images)

        def explain(classifier: Classifier = classifier, images: torch.Tensor = images) -> None:
            of_prediction(classifier, images, batch_size=BATCH)

        ratios = ratios_in_turn({name: explain}, forward, rounds)[name]
        yield Timed(name, side, heatmap.method, heatmap.rules, ratios)


def conservation() -> None:
    from cifar import NETWORKS, load_classifier, load_images
    from conftest import shared_folder

    shared = shared_folder()
    if shared is None:
        return
    images, _ = load_images(shared, "test")
    print("\n| trained network | images | share of relevance lost, median | highest |")
    print("|---|---|---|---|")
    for name in NETWORKS:
        lost = of_prediction(load_classifier(shared, name), images[:20]).conservation
        print(f"| {name} | 20 | {lost.median():.1e} | {lost.max():.1e} |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("| network | images | method | rules | heat map / forward pass | lowest | highest |")
    print("|---|---|---|---|---|---|---|")
    for timed in timings(options.rounds):
        median, low, high = spread(timed.ratios)
        over = " (over the bound)" * (median > BOUND)
        print(
            f"| {timed.network} | {BATCH} of {timed.side}x{timed.side} | {timed.method} "
            f"| {timed.rules} | {median:.1f}{over} | {low:.1f} | {high:.1f} |"
        )
    conservation()


if __name__ == "__main__":
    main()
