"""The real networks and images that tests and benchmarks run on, from the shared folder."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from neroli import ActivationStore, Classifier, Preprocessing, extract
from neroli.data.opening import as_source
from neroli.execution import AS_IT_IS, Execution
from neroli.models.cifar import densenet100, resnet20
from neroli.taps import NOTHING, Requirements

NETWORKS = {
    "resnet20": (
        resnet20,
        "cifar10_resnet20",
        Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=(32, 32)),
    ),
    "densenet100": (
        densenet100,
        "cifar10_densenet100",
        Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), resize=(32, 32)),
    ),
}
SETS = ("train", "test", "cifar100", "mnist")
TARS = {"tiny-imagenet": "tiny_imagenet_3000.tar", "medical": "medical_mnist.tar"}
STAGES = {
    "resnet20": ("layer1", "layer2", "layer3"),
    "densenet100": ("block1", "block2", "block3"),
}


def load_classifier(shared: Path, network: str) -> Classifier:
    """A CIFAR-10 network with its trained weights."""
    factory, weights, preprocessing = NETWORKS[network]
    model = factory()
    model.load_state_dict(load_file(shared / "models" / f"{weights}.safetensors"))
    return Classifier(model.eval(), preprocessing=preprocessing)


def load_images(shared: Path, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images uint8 and labels, which only those of CIFAR-10 (train: 10k, test) are used of.

    Of CIFAR-100 it is every second test image.
    """
    if name in TARS:
        with tarfile.open(shared / "data" / TARS[name]) as tar:
            files = [tar.extractfile(member) for member in tar if member.isfile()]
            images = [np.asarray(Image.open(file).convert("RGB")) for file in files if file]
        return np.stack(images), np.zeros(len(images), dtype=np.int64)
    file = {"train": "cifar10_train10k", "test": "cifar10_test", "cifar100": "cifar100_test"}
    with np.load(shared / "data" / f"{file.get(name, name)}.npz") as data:
        if name == "mnist":
            return data["test_images"], data["test_labels"]
        step = 2 if name == "cifar100" else 1
        return data["images"][::step], data["labels"][::step]


def extract_set(
    shared: Path,
    network: str,
    name: str,
    folder: Path,
    requires: Requirements = NOTHING,
    every: int = 1,
    execution: Execution = AS_IT_IS,
) -> ActivationStore:
    """The activations of one set, or of every so manieth image of it; labels for CIFAR-10 alone."""
    images, labels = (values[::every] for values in load_images(shared, name))
    known = name in ("train", "test")
    size = 25  # larger maps of a DenseNet are given back to the system each time: half as fast
    batches = [
        (images[i : i + size], labels[i : i + size]) if known else images[i : i + size]
        for i in range(0, len(images), size)
    ]
    classifier = load_classifier(shared, network)
    classifier.execution = execution
    return extract(classifier, as_source(batches), folder / network / name, requires=requires)


def extract_sets(shared: Path, network: str, folder: Path) -> dict[str, ActivationStore]:
    """The activations of the four ``SETS``."""
    return {name: extract_set(shared, network, name, folder) for name in SETS}
