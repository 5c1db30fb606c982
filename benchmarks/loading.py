"""Whether decoding keeps up with the network, and what feature taps cost.

    python benchmarks/loading.py [--images 512] [--rounds 5]

JPEG files are decoded and preprocessed for a ResNet-50 at 224 pixels, which runs on random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import paired_ratio
from PIL import Image

from neroli import Classifier, Preprocessing
from neroli.data.folders import ImageFolder
from neroli.extraction import stream
from neroli.models import import_torchvision
from neroli.taps import Requirements, Tap

IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224
)
SIZES = {"small, as in benchmarks": (500, 375), "endoscopy, HD": (1350, 1080)}


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of smooth noise, which are about as hard to decode as photographs."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = draw.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04d}.jpg", quality=90)


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def decoding(count: int) -> None:
    import torchvision

    network = torchvision.models.resnet50(weights=None).eval()
    classifier = Classifier(network, preprocessing=IMAGENET)
    batch = torch.randn(32, 3, 224, 224)
    with torch.no_grad():
        network(batch)
        forward = 32 * 3 / seconds(lambda: [network(batch) for _ in range(3)])
    print(f"ResNet-50 at 224 alone: {forward:.1f} images/s")
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_jpegs(Path(folder), count, size)
            source = ImageFolder(folder)
            loaded = count / seconds(lambda s=source: [0 for _ in s.batches(IMAGENET, 32)])
            few = min(96, count)
            some = ImageFolder(folder).subset(range(few))
            classifier(torch.randn(2, 3, 224, 224))
            both = few / seconds(lambda s=some: [0 for _ in stream(classifier, s, batch_size=32)])
            print(
                f"JPEG {size[0]}x{size[1]} ({name}): loader alone {loaded:.0f} images/s, "
                f"{loaded / forward:.1f} x the network; both together {both:.1f} images/s, "
                f"{both / forward:.2f} x the network alone"
            )


def tapping(rounds: int) -> None:
    import torchvision

    classifier = Classifier(torchvision.models.resnet18(weights=None))
    batches = [torch.randn(16, 3, 224, 224) for _ in range(4)]
    layers = tuple(Tap(f"layer{n}", pooling) for n in range(1, 5) for pooling in ("mean", "max"))
    cases = {
        "nothing asked for": Requirements(),
        "four layers, mean and max": Requirements(layers),
        "the map before pooling": Requirements(prepool=True),
    }

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                classifier.model(batch)

    classifier.model.eval()
    print("\nResNet-18 at 224, extraction / bare forward loop: median (lowest to highest)")
    for name, requires in cases.items():

        def tapped(requires: Requirements = requires) -> None:
            for batch in batches:
                classifier(batch, requires=requires)

        ratio = paired_ratio(tapped, bare, rounds)
        print(f"{name:<30} {ratio[0]:8.3f}  ({ratio[1]:.3f} to {ratio[2]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    import_torchvision()
    decoding(arguments.images)
    tapping(arguments.rounds)


if __name__ == "__main__":
    main()
