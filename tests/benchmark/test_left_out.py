"""Classes left out in turn: as if the network had never had them, told from the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from batteries import InBatches, equipped
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.benchmark.left_out import (
    WithoutClasses,
    folds,
    left_out_scores,
    reduced_head,
    without_logits,
)
from neroli.detectors import KNN, MSP, Energy, Mahalanobis, Views, create
from neroli.errors import InvalidInput, LabelsRequired
from neroli.fitting import fit_held_out
from neroli.metrics import auroc

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")

FOLDS = [(0,), (3,), (1, 4)]
NAMES = (
    *("energy", "react", "dice", "line", "ash_s", "knn", "nero", "mahalanobis", "vim"),
    *("temperature_scaled_msp", "ensemble", "gram", "nap"),  # held-out images, taps, pre-pool map
)


@pytest.fixture
def held_out(head: LinearHead) -> Activations:
    return random_activations(head, 150, seed=5)


def without(batch: Activations, name: str, classes: Sequence[int], head: LinearHead) -> Activations:
    """The images of the other classes, made anew from copies with the classes' columns deleted."""
    rows = [i for i, label in enumerate(batch.labels.tolist()) if label not in classes]
    left = [c for c in range(head.num_classes) if c not in classes]
    labels = [left.index(batch.labels[i].item()) for i in rows]
    return equipped(
        Activations(
            batch.features[rows].clone(),
            torch.from_numpy(np.delete(batch.logits[rows].numpy(), classes, axis=1)),
            torch.tensor(labels),
            [batch.ids[i] for i in rows],
        ),
        name,
    )


def naive_auroc(
    name: str, train: Activations, head: LinearHead, held_out: Activations, classes: Sequence[int]
) -> float:
    """One detector, one fold: everything deleted from copies, fitted alone, scored one by one."""
    smaller = LinearHead(
        torch.from_numpy(np.delete(head.weight.numpy(), classes, axis=0)),
        torch.from_numpy(np.delete(head.bias.numpy(), classes)),
    )
    detector = create(name).fit(without(train, name, classes, head), smaller)
    fit_held_out([detector], without(held_out, name, classes, head), smaller)
    scores, is_out = [], []
    for row in range(len(held_out)):
        image = held_out[row : row + 1]
        logits = torch.from_numpy(np.delete(image.logits.numpy(), classes, axis=1))
        scores.append(detector.score(equipped(Activations(image.features, logits), name)).item())
        is_out.append(image.labels.item() in classes)
    return float(roc_auc_score(is_out, scores))


def left_out_auroc(*arguments: Any) -> list[tuple[float, ...] | str]:
    """The AUROC of every detector in every fold, or why it failed."""
    return [
        found if isinstance(found, str) else tuple(auroc(*scores) for scores in found)
        for found in left_out_scores(*arguments)
    ]


def test_every_detector_does_as_with_the_classes_deleted_by_hand(
    training: Activations, head: LinearHead, held_out: Activations
) -> None:
    detectors = [create(name) for name in NAMES]
    ready = []
    for batch in (training, held_out):
        parts = [equipped(batch, name) for name in NAMES]
        taps = {key: value for part in parts for key, value in part.taps.items()}
        ready.append(
            Activations(
                batch.features,
                batch.logits,
                batch.labels,
                batch.ids,
                taps,
                equipped(batch, "nap").extras,
            )
        )
    found = left_out_auroc(detectors, ready[0], head, ready[1], FOLDS)
    for name, aurocs in zip(NAMES, found, strict=True):
        expected = [naive_auroc(name, training, head, held_out, fold) for fold in FOLDS]
        assert aurocs == pytest.approx(expected, abs=1e-9), name
    assert all(detector.head is None for detector in detectors), "they are left unfitted"


@pytest.mark.parametrize("member", ["energy", "cadref", "gram", "nap"])
def test_of_views_the_logits_are_deleted_too(
    training: Activations, head: LinearHead, held_out: Activations, member: str
) -> None:
    """The mean of what the member says of the images and of the view, each without the classes."""
    detector = Views(member, ("mirror",))

    def halves(batch: Activations, number: int) -> Activations:
        """The images, or their view, as if there were no other."""
        features = batch.features if number == 0 else batch.features.roll(3, dims=1)
        return equipped(Activations.from_features(features, head, batch.labels, batch.ids), member)

    def seen(batch: Activations) -> Activations:
        plain, view = halves(batch, 0), halves(batch, 1)
        found = {"features": view.features, **view.taps, **view.extras}
        extras = {f"mirror/{name}": value for name, value in found.items()}
        return replace(plain, extras={**plain.extras, **extras, "odin": batch.logits})

    (found,) = left_out_auroc([detector], seen(training), head, seen(held_out), FOLDS)
    expected = []
    for fold in FOLDS:
        smaller = reduced_head(head, fold)
        alone = create(member).fit(WithoutClasses(halves(training, 0), fold), smaller)
        scores = [alone.score(without_logits(halves(held_out, i), fold)) for i in (0, 1)]
        is_out = torch.isin(held_out.labels, torch.tensor(fold))
        expected.append(roc_auc_score(is_out, scores[0] + scores[1]))
    assert found == pytest.approx(expected, abs=1e-9)


def test_images_keep_what_does_not_depend_on_the_logits(
    training: Activations, head: LinearHead
) -> None:
    full = Activations(
        training.features,
        training.logits,
        training.labels,
        training.ids,
        {"layer:mean": training.features[:, :3]},
        {"prepool_max": training.features, "odin": training.logits},
    )
    source = WithoutClasses(InBatches(full, 7), (4, 1))
    assert (len(source), source.num_classes, source.num_features) == (240, 3, 24)
    parts = Activations.concatenate(list(source.batches()))
    kept = [i for i in range(400) if i % 5 not in (1, 4)]
    assert torch.equal(parts.features, full.features[kept])
    assert torch.equal(parts.logits, full.logits[kept][:, [0, 2, 3]])
    assert parts.labels.tolist() == [{0: 0, 2: 1, 3: 2}[i % 5] for i in kept]
    assert parts.ids == tuple(full.ids[i] for i in kept)
    assert torch.equal(parts.taps["layer:mean"], full.features[kept][:, :3])
    assert list(parts.extras) == ["prepool_max"], "a probe saw the logits that are deleted"


def test_a_head_without_classes_gives_the_logits_of_the_others(
    training: Activations, head: LinearHead
) -> None:
    smaller = reduced_head(head, (3, 0))
    torch.testing.assert_close(smaller(training.features), training.logits[:, [1, 2, 4]])


def test_the_order_of_the_classes_does_not_matter(
    training: Activations, head: LinearHead, held_out: Activations
) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])  # new class i is the old order[i]
    place = order.argsort()
    other = LinearHead(head.weight[order], head.bias[order])

    def renamed(batch: Activations) -> Activations:
        return Activations(batch.features, batch.logits[:, order], place[batch.labels], batch.ids)

    detectors = [create(name) for name in ("line", "nero", "knn", "dice", "mahalanobis")]
    one = left_out_auroc(detectors, training, head, held_out, FOLDS)
    renamed_folds = [tuple(place[list(fold)].tolist()) for fold in FOLDS]
    two = left_out_auroc(detectors, renamed(training), other, renamed(held_out), renamed_folds)
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, abs=1e-9)


@pytest.mark.parametrize("size", [1, 33])
def test_the_size_of_the_batches_does_not_matter(
    size: int, training: Activations, head: LinearHead, held_out: Activations
) -> None:
    detectors = [create(name) for name in ("line", "nero", "knn", "ash_s")]
    known = left_out_auroc(detectors, training, head, held_out, FOLDS)
    small = [InBatches(batch, size) for batch in (training, held_out)]
    for one, other in zip(
        known, left_out_auroc(detectors, small[0], head, small[1], FOLDS), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-9)


def test_a_detector_that_fails_says_why_and_the_others_go_on(
    training: Activations, head: LinearHead, held_out: Activations
) -> None:
    """Whether it can never be, or failed in the third fold, which leaves three classes of five."""
    of_views = Views("odin", ("mirror",))
    detectors = [Energy(), KNN(k=300), create("odin"), Mahalanobis(), of_views]
    energy, knn, odin, mahalanobis, views = left_out_auroc(
        detectors, training, head, held_out, FOLDS
    )
    assert views == odin.replace("ODIN", "Views")
    assert knn.startswith("KNN looks for 300 neighbours among only 240 training images")
    assert odin == (
        "ODIN runs the network again, with the logits of all classes: no class can be left out "
        "of it."
    )
    alone = left_out_auroc([Energy(), Mahalanobis()], training, head, held_out, FOLDS)
    assert [energy, mahalanobis] == alone
    assert [len(aurocs) for aurocs in alone] == [3, 3]


def test_a_score_that_is_not_finite_is_a_failure_of_that_detector_alone(
    training: Activations, head: LinearHead, held_out: Activations
) -> None:
    class Unsure(MSP):
        def compute(self, batch: Activations) -> torch.Tensor:
            return super().compute(batch) / (batch.logits[:, 0] > 0)

    unsure, msp = left_out_auroc([Unsure(), MSP()], training, head, held_out, FOLDS)
    assert "is not finite" in unsure
    assert len(msp) == 3


def test_a_class_without_held_out_images_is_passed_over(
    training: Activations, head: LinearHead, held_out: Activations
) -> None:
    some = held_out.select(held_out.labels != 3)
    (aurocs,) = left_out_auroc([Energy()], training, head, some, [(0,), (3,), (1, 4)])
    expected = [naive_auroc("energy", training, head, some, fold) for fold in [(0,), (1, 4)]]
    assert aurocs == pytest.approx(expected)


def test_labels_are_needed_of_both(training: Activations, head: LinearHead) -> None:
    bare = Activations(training.features, training.logits)
    for train, held_out in ((bare, training), (training, bare)):
        with pytest.raises(LabelsRequired, match="give the labels of both"):
            left_out_auroc([Energy()], train, head, held_out, FOLDS)


@pytest.mark.parametrize("classes", [(5,), (-1,), (2, 2), (0, 1, 2, 3)])
def test_classes_that_cannot_be_left_out_are_refused(
    classes: tuple[int, ...], training: Activations, head: LinearHead
) -> None:
    with pytest.raises(InvalidInput, match="Of 5 classes, .* leave at least two"):
        reduced_head(head, classes)
    with pytest.raises(InvalidInput, match="Of 5 classes, .* leave at least two"):
        WithoutClasses(training, classes)


@given(st.integers(3, 300), st.integers(0, 99), st.integers(3, 12))
def test_every_class_is_left_out_once_and_at_least_two_stay(
    count: int, seed: int, most: int
) -> None:
    parts = folds(count, seed, most)
    assert sorted(c for part in parts for c in part) == list(range(count))
    assert len(parts) == min(count, most)
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert count - max(sizes) >= 2
    assert parts == folds(count, seed, most)


def test_few_classes_are_left_out_one_by_one_and_of_two_none() -> None:
    assert folds(4, seed=9) == [(0,), (1,), (2,), (3,)]
    assert folds(2, seed=0) == folds(1, seed=0) == []
    assert folds(100, seed=0) != folds(100, seed=1)
    with pytest.raises(InvalidInput, match="most=2"):
        folds(9, 0, most=2)
