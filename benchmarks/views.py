"""What averaging scores over views of an image brings, and what a harmful view costs.

    python benchmarks/views.py [--network resnet20] [--every 3]

Detectors are fitted on training images of CIFAR-10 (all 10,000 at the default) and compared with
their scores averaged over views: AUROC of CIFAR-10 test images against every so manieth image of
CIFAR-100 and of Tiny ImageNet.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import shared_data

from neroli import fit
from neroli.detectors import Detector, Views, create
from neroli.metrics import auroc
from neroli.taps import NOTHING

DETECTORS = ("msp", "energy", "knn", "vim", "cadref", "nero", "line", "fdbd")
VIEWS = {
    "mirror": ("mirror",),
    "shifts": ("left:2", "right:2", "up:2", "down:2"),
    "mirror, left, right": ("mirror", "left:2", "right:2"),
    "rotations": ("rotate:5", "rotate:-5"),
    "flip": ("flip",),
}
OOD = ("cifar100", "tiny-imagenet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20", choices=["resnet20", "densenet100"])
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    shared = shared_data()
    from cifar import extract_set

    detectors: dict[tuple[str, str], Detector] = {}
    for name in DETECTORS:
        detectors[name, "alone"] = create(name)
        detectors |= {(name, label): Views(name, views) for label, views in VIEWS.items()}
    requires = NOTHING
    for detector in detectors.values():
        requires |= detector.requires
    with tempfile.TemporaryDirectory() as folder:
        step = {"train": args.every // 2 or 1, "test": 2 * args.every}
        sets = {
            name: extract_set(
                shared,
                args.network,
                name,
                Path(folder),
                NOTHING if name == "train" else requires,
                step.get(name, args.every),
            )
            for name in ("train", "test", *OOD)
        }
        fit(list(detectors.values()), sets["train"], sets["train"].head)
        scores = {
            key: {name: detector.score(sets[name].load()) for name in ("test", *OOD)}
            for key, detector in detectors.items()
        }
    print({name: len(store) for name, store in sets.items()})
    labels = ("alone", *VIEWS)
    print(f"| | {' | '.join(labels)} |")
    for ood in OOD:
        for name in DETECTORS:
            found = [scores[name, label] for label in labels]
            figures = [f"{100 * auroc(each['test'], each[ood]):.1f}" for each in found]
            print(f"| {name}, {ood} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
