"""The classifier of a benchmark: loaded, or trained first if the suite says how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neroli.benchmark.images import BenchmarkImages, pretrained_file, weights_file
from neroli.benchmark.schema import Suite
from neroli.classifier import Classifier
from neroli.data.pictures import Pictures
from neroli.data.splitting import split
from neroli.errors import InvalidInput
from neroli.files import locked
from neroli.models import load_classifier
from neroli.training import Recipe, train

VALIDATION = 0.15
"""Share of the training images by which the best epoch is chosen."""


def classifier_of(
    suite: Suite,
    images: BenchmarkImages,
    data: Path | None,
    out: Path,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    progress: bool | None = None,
) -> Classifier:
    """The suite's classifier; one that is trained is kept in ``out`` and not trained again.

    Args:
        suite: which model, with which weights, or how it is trained.
        images: of which those for training are trained on, with their classes.
        data: the folder of data that the suite's paths are below.
        out: the benchmark's folder.
        device: where it runs.
        say: told what is being done.
        progress: show a progress bar on standard error; None does so on a terminal.

    Raises:
        ModelError: if the model or its weights cannot be loaded.
        InvalidInput: if it must be trained and the classes of the images are not known.
        ArtefactError: if another process writes to ``out``.
    """
    model = suite.model
    weights = weights_file(suite, data)
    spec = model.spec
    if model.training is not None and weights is None:
        spec = model.training.arch
        say(f"Training {spec} ...")
        with locked(out, "benchmark"):
            weights = _trained(suite, images, data, out, device, progress, say)
    classifier = load_classifier(
        spec,
        weights,
        head=model.head,
        preprocessing=model.preprocessing,
        device=device,
    )
    if classifier.class_names is None:
        classifier.class_names = images.class_names
    return classifier


def _trained(
    suite: Suite,
    images: BenchmarkImages,
    data: Path | None,
    out: Path,
    device: str,
    progress: bool | None,
    say: Callable[[str], None],
) -> Path:
    assert suite.model.training is not None
    training, names = _with_classes(images)
    fitted, validation = split(training, VALIDATION)
    trained = train(
        suite.model.training.arch,
        fitted,
        validation,
        out / "model.safetensors",
        Recipe(**suite.model.training.overrides),
        class_names=names,
        weights=pretrained_file(suite, data),
        device=device,
        progress=progress,
        say=say,
    )
    return trained.weights


def _with_classes(images: BenchmarkImages) -> tuple[Pictures, list[str]]:
    """The training images with class indices, and the names of the classes."""
    training = images.train
    names = images.class_names or training.label_names()
    if training.labels is None:
        training = training.labelled({name: index for index, name in enumerate(names)})
    if not names:
        raise InvalidInput(
            "The training images name no classes: a model cannot be trained on them."
        )
    return training, list(names)
