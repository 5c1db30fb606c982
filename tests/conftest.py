"""Fixtures: random activations, a trained toy classifier, and the real data where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from neroli import Activations, Classifier, Guard, LinearHead, Preprocessing
from neroli.cli import app
from neroli.detectors import NERO
from networks import COLOURS, colour_images, colour_loader, trained_colour_network

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run beside each other: one thread for each
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

COLOUR_PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that take minutes, so that none is left alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def shared_folder() -> Path | None:
    """Where the real images, weights and golden values are; None on a machine without them."""
    for path in (os.environ.get("NEROLI_SHARED"), Path(__file__).parents[2] / "shared"):
        if path and (Path(path) / "golden").is_dir():
            return Path(path)
    return None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draws of the global generator are the same in every run and in any order of the tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def few_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for the tiny networks, which more only slow down; all for the real ones."""
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("realdata") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared() -> Path:
    path = shared_folder()
    if path is None:
        pytest.skip("no real data: neither $NEROLI_SHARED nor ../shared has it")
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, np.ndarray]:
    """What the authors' programs compute on features of the CIFAR-10 DenseNet."""
    with np.load(shared / "golden" / "nero_line_cifar10_densenet.npz") as file:
        return dict(file)


@pytest.fixture
def head() -> LinearHead:
    """A head of 5 classes and 24 features, float64."""
    draw = torch.Generator().manual_seed(0)
    return LinearHead(
        torch.randn(5, 24, generator=draw, dtype=torch.float64),
        torch.randn(5, generator=draw, dtype=torch.float64),
    )


def random_activations(
    head: LinearHead, count: int, seed: int = 0, shift: float = 0.0
) -> Activations:
    """Rectified features around one centre a class, all classes present."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % head.num_classes
    noise = torch.randn(count, head.num_features, generator=draw, dtype=torch.float64)
    features = (0.5 * head.weight.double()[labels] + noise + shift).clamp(min=0)
    ids = [f"image-{seed}-{i}" for i in range(count)]
    return Activations.from_features(features, head, labels, ids)


@pytest.fixture
def training(head: LinearHead) -> Activations:
    return random_activations(head, 400)


@pytest.fixture
def new(head: LinearHead) -> Activations:
    return random_activations(head, 90, seed=7, shift=0.3)


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS
    )


@pytest.fixture
def guard(classifier: Classifier) -> Guard:
    """A calibrated NERO guard of the colour network."""
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1))
    return guard.calibrate(colour_loader(120, 2, labels=False))


def write_pictures(root: Path, count: int, seed: int, *, by_class: bool = True) -> Path:
    """A folder of PNG colour pictures, in one subfolder a class or all together."""
    for index, (picture, label) in enumerate(zip(*colour_images(count, seed), strict=True)):
        folder = root / COLOURS[label] if by_class else root
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index:04d}.png")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (by class), calibration/ and new/ pictures, and weights.safetensors."""
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train", 120, seed=1)
    write_pictures(root / "calibration", 60, seed=2, by_class=False)
    write_pictures(root / "new", 40, seed=3, by_class=False)
    save_file(trained_colour_network().state_dict(), root / "weights.safetensors")
    return root


@pytest.fixture(scope="session")
def saved_guard(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a guard of the ``pictures`` that the command line saved, with thumbnails."""
    out = tmp_path_factory.mktemp("guards") / "guard"
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    normalise = ["--mean", "0.5,0.5,0.5", "--std", "0.25 0.25 0.25"]
    arguments = ["fit", *model, *data, *normalise, "--out", out, "--keep-examples", 30]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return out
