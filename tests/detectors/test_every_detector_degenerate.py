"""Every detector where the data are at the edge: finite scores, or an error that says what to do.

Arithmetic that warns, as of 0 / 0, is an error here. What neroli says of its assumptions is not.
"""

from collections.abc import Iterator

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor
from torch.nn.functional import layer_norm

from batteries import (
    EVERY,
    activations,
    check_finite_or_refused,
    create,
    equipped,
    normal_head,
)
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import names
from neroli.errors import NotEnoughImages
from neroli.fitting import InProgress
from neroli.moments import Covariance

pytestmark = pytest.mark.filterwarnings("error", "ignore::neroli.errors.NeroliWarning")

NEIGHBOURS = ("knn", "nnguide")
"""Which look for a given number of neighbours: with fewer images there is none to be the k-th."""

CORRECT = ("openmax",)
"""Learns from correctly classified images alone, and has no score without any."""

TOGETHER = ("ensemble", "views")
"""The default, and views of it: refused where none of its members tells any images apart."""


def labelled(features: Tensor, head: LinearHead, labels: Tensor) -> Activations:
    return Activations.from_features(features, head, labels)


def sizes() -> Iterator[ParameterSet]:
    """Every detector with small and large networks; what takes many seconds is marked slow."""
    for name in names():
        waiting = InProgress.of_training(create(name), normal_head(2, 24)).requests
        decomposes = any(isinstance(statistic, Covariance) for statistic in waiting)
        for classes, features, images in [(1, 24, 60), (2, 64, 100), (2, 2048, 60), (1000, 64, 60)]:
            slow = [pytest.mark.slow] if features == 2048 and decomposes else []
            yield pytest.param(name, classes, features, images, marks=slow)
        many = 256 if name == "weiper_kld" else 2048  # it has a hundred heads of 1,000 classes
        yield pytest.param(name, 1000, many, 1500, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "classes", "features", "images"), list(sizes()))
def test_from_few_to_many_classes_and_features(
    name: str, classes: int, features: int, images: int
) -> None:
    """Where classes outnumber the images, most of them have none."""
    head = normal_head(classes, features)
    new = random_activations(head, 5, seed=5).features
    error = check_finite_or_refused(name, random_activations(head, images), head, new)
    # NERO keeps 2/3 as many components as features, and needs so many images.
    too_few = images < features // 3 and name == "nero"
    assert (error is not None) == (too_few or (classes == 1 and name == "ddcs"))


@EVERY
@pytest.mark.parametrize("labelling", ["true", "predicted"])
def test_a_class_without_images(name: str, labelling: str, head: LinearHead) -> None:
    """Never the label of a training image, or never predicted: images predicted as it get scores.

    And what was learned without it is saved and restored.
    """
    known = random_activations(head, 100)
    by = known.labels if labelling == "true" else known.predictions
    assert by is not None
    training = equipped(known.select(by != 3), name)
    detector = create(name).fit(training, head)
    new = random_activations(head, 20, seed=4)
    assert (new.predictions == 3).any()
    scores = detector.score(equipped(new, name))  # which raises if one is not finite
    restored = create(name).load_state(detector.state())
    assert torch.equal(restored.score(equipped(new, name)), scores)


@EVERY
def test_one_class_has_all_images(name: str, head: LinearHead) -> None:
    known = random_activations(head, 60)
    training = labelled(known.features, head, torch.full((60,), 2))
    error = check_finite_or_refused(name, training, head)
    assert (error is not None) == (name == "ddcs")  # compares classes


@EVERY
@pytest.mark.parametrize("images", [1, 2])
def test_hardly_an_image(name: str, images: int, head: LinearHead) -> None:
    known = random_activations(head, 20)
    right = known.select(known.labels == known.predictions)
    new = random_activations(head, 10, seed=6).features
    error = check_finite_or_refused(name, right[:images], head, new)
    refuse = {"nero", "gram", *NEIGHBOURS, *(["ddcs", *TOGETHER] if images == 1 else [])}
    assert (error is not None) == (name in refuse)
    assert error is None or isinstance(error, NotEnoughImages)


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("spread", [True, False])
def test_identical_images(name: str, scale: float, spread: bool, head: LinearHead) -> None:
    """All zero or not; of one class, which is not the predicted one, or of all."""
    known = random_activations(head, 60)
    features = scale * known.features[:1].repeat(60, 1)
    predicted = int(head(features[:1]).argmax())
    labels = torch.arange(60) % 5 if spread else torch.full((60,), (predicted + 1) % 5)
    error = check_finite_or_refused(name, labelled(features, head, labels), head, known.features)
    # Gram holds out a share by the images' hashes: all of these, or none
    refuse = {"gram", *TOGETHER, *(() if spread else ("ddcs", *CORRECT))}
    assert (error is not None) == (name in refuse)


def _constant_columns(features: Tensor) -> Tensor:
    features = features.clone()
    features[:, ::3] = 0.7
    features[:, 1] = 0
    return features


CHANGED = {
    "columns that are constant": _constant_columns,
    "of both signs": lambda features: layer_norm(features, features.shape[1:]),
    "negative": lambda features: -features,
    "large": lambda features: 1e4 * features,
    "tiny": lambda features: 1e-30 * features,
}


@EVERY
@pytest.mark.parametrize("change", CHANGED)
def test_unusual_features(name: str, change: str, head: LinearHead) -> None:
    """In training and new, and the latter with images of zeros too."""
    known = random_activations(head, 60)
    new = CHANGED[change](random_activations(head, 10, seed=8).features)
    new = torch.cat([new, torch.zeros_like(new[:1])])
    training = labelled(CHANGED[change](known.features), head, torch.arange(60) % 5)
    error = check_finite_or_refused(name, training, head, new)
    assert (error is not None) == (change == "tiny" and name in TOGETHER)


@EVERY
def test_usual_training_and_unusual_new_features(name: str, head: LinearHead) -> None:
    known = random_activations(head, 60)
    new = random_activations(head, 5, seed=8).features
    more = torch.cat([factor * new for factor in (0.0, -1.0, 1e4, 1e-30, 1e-40)])
    assert check_finite_or_refused(name, known, head, more) is None


@EVERY
def test_one_feature(name: str) -> None:
    head = normal_head(5, 1)
    known = random_activations(head, 60)
    assert check_finite_or_refused(name, known, head, known.features + 3) is None


HEADS = {
    "classes with the same weights": lambda w, b: (w[[0, 0, 1, 2, 2]], b[[0, 0, 1, 2, 2]]),
    "all logits equal": lambda w, b: (w[[0] * 5], b[[0] * 5]),
    "all logits zero": lambda w, b: (0 * w, 0 * b),
    "all logits negative": lambda w, b: (w, b - 1000),
}


@EVERY
@pytest.mark.parametrize("kind", HEADS)
def test_unusual_heads(name: str, kind: str, head: LinearHead) -> None:
    changed = LinearHead(*HEADS[kind](head.weight, head.bias))
    known = random_activations(head, 60)
    training = labelled(known.features, changed, torch.arange(60) % 5)
    new = random_activations(head, 10, seed=9).features
    error = check_finite_or_refused(name, training, changed, new)
    assert (error is not None) == (kind == "all logits zero" and name in TOGETHER)


def test_the_default_sizes_fit_the_narrowest_network() -> None:
    """175 neurons, 100 or 256 components, 1,000 dimensions are the authors', of wide networks."""
    for features in (1, 2, 3, 174, 175, 256):
        head = normal_head(2, features)
        known = random_activations(head, 400)
        for name in ("nero", "neco", "vim", "residual", "regularised_pca", "corp", "ddcs", "gen"):
            detector = create(name).fit(known, head)
            assert detector.score(activations(name, known.features[:3], head)).isfinite().all()
