"""The real networks and images that tests and benchmarks run on, from the shared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from neroli import ActivationStore, Classifier, Preprocessing, extract
from neroli.extraction import as_source
from networks import DenseNet100, ResNet20

NETWORKS = {
    "resnet20": (
        ResNet20,
        "cifar10_resnet20",
        Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=(32, 32)),
    ),
    "densenet100": (
        DenseNet100,
        "cifar10_densenet100",
        Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), resize=(32, 32)),
    ),
}
SETS = ("train", "test", "cifar100", "mnist")


def load_classifier(shared: Path, network: str) -> Classifier:
    """A CIFAR-10 network with its trained weights."""
    factory, weights, preprocessing = NETWORKS[network]
    model = factory()
    model.load_state_dict(load_file(shared / "models" / f"{weights}.safetensors"))
    return Classifier(model.eval(), preprocessing=preprocessing)


def load_images(shared: Path, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images uint8 and labels: CIFAR-10 train (10k) and test, every second of CIFAR-100, MNIST."""
    file = {"train": "cifar10_train10k", "test": "cifar10_test", "cifar100": "cifar100_test"}
    with np.load(shared / "data" / f"{file.get(name, name)}.npz") as data:
        if name == "mnist":
            return data["test_images"], data["test_labels"]
        step = 2 if name == "cifar100" else 1
        return data["images"][::step], data["labels"][::step]


def extract_sets(shared: Path, network: str, folder: Path) -> dict[str, ActivationStore]:
    """The activations of all four sets; labels only for those of CIFAR-10."""
    classifier = load_classifier(shared, network)
    stores = {}
    for name in SETS:
        images, labels = load_images(shared, name)
        known = name in ("train", "test")
        chunks = range(0, len(images), 100)
        batches = [
            (images[i : i + 100], labels[i : i + 100]) if known else images[i : i + 100]
            for i in chunks
        ]
        stores[name] = extract(classifier, as_source(batches), folder / network / name)
    return stores
