"""What explanations are tested on: networks with fitted detectors, images, and pasted patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from common import shared_data
from faithfulness import gradient_times_input
from PIL import Image
from torch import Tensor

from neroli import Activations, Classifier, fit
from neroli.detectors import NERO, Detector, RelevanceDeviation
from neroli.explain import Neurons, Reference, neurons_of, of_prediction, propagate

OUTSIDE = ("cifar100", "mnist")
PASTED = ("nothing", "mnist", "medical", "cifar10")
"""What is pasted into images: nothing, to compare with, of two sets outside, of a test image."""
SIDE, PATCH = 32, 12
BATCH = 50
STARTS: dict[str, Callable[[Neurons], Tensor]] = {
    "as it is": lambda found: found.deviation * found.active,
    "excess": lambda found: found.deviation.clamp(min=0) * found.active,
    "lack": lambda found: found.deviation.clamp(max=0) * found.active,
    "shares": lambda found: shares_of(found) * found.active,
}
"""What a deviation heat map may start from, by name; ``as it is`` in the library."""


@dataclass
class Subject:
    """One network with two fitted detectors, and the images it is tested on."""

    network: str
    classifier: Classifier
    detectors: dict[str, tuple[Detector, Reference]]
    training: Activations
    training_images: Tensor
    pictures: np.ndarray
    inside: Tensor
    outside: dict[str, Tensor]

    @classmethod
    def of(cls, network: str, images: int, training: int) -> Subject:
        """The first images that are classified correctly, and as many of each set outside."""
        from cifar import load_classifier, load_images

        shared, draw = shared_data(), np.random.default_rng(0)
        classifier = load_classifier(shared, network)

        def some(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
            pictures, labels = load_images(shared, name)
            rows = draw.permutation(len(pictures))[:count]
            return pictures[rows], labels[rows]

        pictures, labels = some("train", training)
        training_images = classifier.prepare(pictures)
        known = run_of(classifier, training_images, torch.from_numpy(labels).long())
        detectors: list[Detector] = [NERO(), RelevanceDeviation()]
        references = [Reference(detector) for detector in detectors]
        fit([*detectors, *references], known, classifier.head)
        pictures, labels = some("test", 2 * images)
        prepared = classifier.prepare(pictures)
        right = run_of(classifier, prepared).predictions == torch.from_numpy(labels)
        rows = right.nonzero()[:images, 0]
        return cls(
            network,
            classifier,
            {d.name: (d, r) for d, r in zip(detectors, references, strict=True)},
            known,
            training_images,
            pictures[rows],
            prepared[rows],
            {name: classifier.prepare(some(name, images)[0]) for name in OUTSIDE},
        )

    def deviation(self, name: str, images: Tensor, start: str) -> Tensor:
        """Deviation heat maps of a detector, ``[N, H, W]``."""
        detector, reference = self.detectors[name]
        found = neurons_of(detector, reference, run_of(self.classifier, images))
        given = STARTS[start](found)
        return propagate(self.classifier, images, given, batch_size=BATCH).relevance

    @property
    def mean_features(self) -> Tensor:
        """Of the training images predicted as each class, ``[C, D]``."""
        detector = self.detectors["relevance_deviation"][0]
        assert isinstance(detector, RelevanceDeviation)
        return detector.usual.float()

    def score(self, name: str) -> Callable[[Tensor], Tensor]:
        """The score of images by one detector, the network being run again."""
        return lambda images: self.detectors[name][0].score(run_of(self.classifier, images))


def shares_of(found: Neurons) -> Tensor:
    assert found.shares is not None, "both detectors are sums over neurons"
    return found.shares.neurons


def run_of(classifier: Classifier, images: Tensor, labels: Tensor | None = None) -> Activations:
    """Activations of any number of images."""
    parts = [classifier(some) for some in images.split(BATCH)]
    return Activations(
        torch.cat([part.features for part in parts]),
        torch.cat([part.logits for part in parts]),
        labels,
    )


def class_means(values: Tensor, classes: Tensor, count: int = 10) -> Tensor:
    """Means ``[C, K]`` of the rows of each class; of all for a class without."""
    of = torch.nn.functional.one_hot(classes, count).to(values)
    sizes = of.sum(0)[:, None]
    return torch.where(sizes > 0, of.T @ values / sizes.clamp(min=1), values.mean(0))


def noise(like: Tensor) -> Tensor:
    """Random maps ``[N, H, W]`` for images."""
    return torch.rand(len(like), SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def sizes(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """Maps of images without negative values: absolute ones, and the two parts of some."""
    classifier = subject.classifier
    classes = run_of(classifier, images).predictions
    found = {
        "prediction": of_prediction(classifier, images, batch_size=BATCH).relevance.abs(),
        "gradient x input": gradient_times_input(classifier.model, images, classes).abs(),
        "random": noise(images),
    }
    for detector in subject.detectors:
        for start in STARTS:
            name, values = f"{detector}: {start}", subject.deviation(detector, images, start)
            found[name] = values.abs()
            if start == "as it is":
                found[f"{name}, positive"] = values.clamp(min=0)
                found[f"{name}, negative"] = -values.clamp(max=0)
    return found


def pasted(subject: Subject, source: str) -> tuple[Tensor, Tensor]:
    """The images with patches at random places, and where these are ``[N, H, W]``."""
    from cifar import load_images

    draw = np.random.default_rng(1)
    count = len(subject.pictures)
    places = draw.integers(0, SIDE - PATCH + 1, (count, 2))  # the same of every source
    if source == "cifar10":
        patches = np.roll(subject.pictures, 1, axis=0)
    elif source != "nothing":
        patches = load_images(shared_data(), source)[0]
        patches = patches[draw.permutation(len(patches))[:count]]
    pictures = subject.pictures.copy()
    inside = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for row, (y, x) in enumerate(places):
        inside[row, y : y + PATCH, x : x + PATCH] = True
        if source != "nothing":
            whole = Image.fromarray(patches[row]).convert("RGB")
            small = whole.resize((PATCH, PATCH), Image.Resampling.BOX)
            pictures[row, y : y + PATCH, x : x + PATCH] = np.asarray(small)
    return subject.classifier.prepare(pictures), inside
