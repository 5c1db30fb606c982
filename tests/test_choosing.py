"""A choice of a detector without OOD data: what wins, when the default stands, what is doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from batteries import InBatches
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.benchmark.schema import group
from neroli.choice import Choice
from neroli.choosing import SLOW, choose, detectors_named
from neroli.detectors import DEFAULT, KNN, Detector, Energy, create
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.metrics import fpr95
from neroli.recommending import MARGIN


@dataclass(eq=False)
class Noise(Energy):
    """Tells nothing from anything."""

    name: ClassVar[str] = "noise"
    frequency: float = 1e4

    def compute(self, batch: Activations) -> torch.Tensor:
        return torch.sin(self.frequency * batch.features.sum(dim=1))


@dataclass(eq=False)
class DimSighted(KNN):
    """Nearest neighbours, seen through noise."""

    name: ClassVar[str] = "dim-sighted"
    blur: float = 1.0

    def compute(self, batch: Activations) -> torch.Tensor:
        return super().compute(batch) + self.blur * Noise().compute(batch)


@dataclass(eq=False)
class First(Energy):
    """The first feature, whatever it means."""

    name: ClassVar[str] = "first"

    def compute(self, batch: Activations) -> torch.Tensor:
        return batch.features[:, 0]


@dataclass(eq=False)
class Twin(Energy):
    name: ClassVar[str] = "a twin of energy"


def noises(count: int) -> list[Detector]:
    """So many detectors that tell nothing, each otherwise."""
    return [
        type(f"Noise{i}", (Noise,), {"name": f"noise {i}"})(frequency=1e4 + 37 * (i + 1))
        for i in range(count)
    ]


@pytest.fixture
def held_out(head: LinearHead) -> Activations:
    return random_activations(head, 200, seed=5)


@pytest.fixture
def spoiled(head: LinearHead) -> Activations:
    """Stand-ins for OOD images that lie apart from all classes."""
    features = random_activations(head, 120, seed=6).features
    return Activations.from_features(0.4 * features[:, torch.randperm(24)], head)


def unlabelled(batch: Activations) -> Activations:
    return Activations(batch.features, batch.logits, None, batch.ids)


def row(choice: Choice, name: str):  # type: ignore[no-untyped-def]
    return next(each for each in choice.ranked if each.detector == name)


# What is recommended


def test_a_detector_that_sees_beats_a_default_that_does_not(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, [KNN(k=5)], default=Noise())
    assert (choice.recommended, choice.default, choice.stands) == ("knn", "noise", False)
    assert choice.alike == ["knn"]
    assert [each.detector for each in choice.ranked] == ["knn", "noise"]
    assert "knn beats the default, noise, by" in choice.reason
    assert "on both by more than chance, also after correction for the 1" in choice.reason


def test_the_default_stands_where_it_is_the_best(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, [Noise()], default=KNN(k=5))
    assert choice.recommended == "knn"
    assert row(choice, "knn").gain is None
    gains = row(choice, "noise").gain.on
    assert list(gains) == ["left-out classes", "corrupted images"]
    assert max(gains.values()) < 0
    assert choice.reason == (
        "The default, knn, stands: it has the highest objective of the 2 detectors compared."
    )


def test_the_default_stands_beside_its_equal(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, [Twin()], default=Energy())
    assert choice.recommended == "energy"
    assert [each.detector for each in choice.ranked] == ["energy", "a twin of energy"]
    gain = row(choice, "a twin of energy").gain
    assert (gain.value, gain.error, gain.chance) == (0, 0, 1)
    assert choice.alike == ["energy", "a twin of energy"]


def test_the_best_of_many_that_tell_nothing_does_not_displace_the_default(
    head: LinearHead,
) -> None:
    """In eight draws of the images, in some of which the best is ahead as one alone seldom is."""
    chances = []
    for seed in range(8):
        train, held_out, same = (random_activations(head, 150, seed=3 * seed + i) for i in range(3))
        choice = choose(head, train, held_out, unlabelled(same), noises(25), default=Noise())
        gains = [each.gain for each in choice.ranked if each.gain is not None]
        chances.append(min(stats.norm.sf(gain.value / gain.error) for gain in gains))
        assert choice.recommended == "noise"
    assert min(chances) < 0.05


def test_what_convinces_alone_may_not_as_one_of_many(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    dim = DimSighted(blur=2.0)
    alone = choose(head, training, held_out, spoiled, [dim], default=Noise())
    assert alone.recommended == "dim-sighted"
    chance = row(alone, "dim-sighted").gain.chance
    copies = [type("Copy", (Noise,), {"name": f"copy {i}"})() for i in range(60)]
    among = choose(head, training, held_out, spoiled, [dim, *copies], default=Noise())
    assert row(among, "dim-sighted").rank == 1
    assert row(among, "dim-sighted").gain.chance == pytest.approx(min(1, 61 * chance))
    assert among.recommended == "noise"
    assert "no more than chance may give the best of 61 compared with it" in among.reason


def test_one_kind_of_stand_in_does_not_displace_the_default(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    for kind, stand_ins in (
        ("left-out classes", (training, held_out, None)),
        ("corrupted images", (training, unlabelled(held_out), spoiled)),
    ):
        choice = choose(head, *stand_ins, [KNN(k=5)], default=Noise())
        assert row(choice, "knn").gain.chance < 0.01
        assert choice.recommended == "noise"
        assert f"but on {kind} alone, which is too little to go by" in choice.reason


def test_a_gain_on_one_stand_in_is_not_bought_with_a_loss_on_the_other(
    head: LinearHead, training: Activations, held_out: Activations
) -> None:
    """The first feature tells spoiled images surely, but no class that is left out."""
    draw = torch.Generator().manual_seed(0)
    features = random_activations(head, 120, seed=8).features
    features[:, 0] = 50 + torch.rand(120, generator=draw, dtype=torch.float64)
    spoiled = Activations.from_features(features, head)
    flat = [
        Activations.from_features(
            torch.cat(
                [torch.rand(len(b), 1, generator=draw, dtype=torch.float64), b.features[:, 1:]], 1
            ),
            head,
            b.labels,
            b.ids,
        )
        for b in (training, held_out)
    ]

    @dataclass(eq=False)
    class Blind(KNN):
        """Sees all features but the first."""

        name: ClassVar[str] = "blind"

        def compute(self, batch: Activations) -> torch.Tensor:
            features = batch.features.clone()
            features[:, 0] = 0.5
            return super().compute(Activations(features, batch.logits))

    choice = choose(head, *flat, spoiled, [First()], default=Blind(k=5))
    first = row(choice, "first")
    assert first.rank == 1
    assert first.gain.value > MARGIN
    assert first.gain.value > 5 * first.gain.error
    assert choice.recommended == "blind"
    assert "but does not do better on both kinds of stand-in (" in choice.reason
    assert choice.reason.endswith(" on left-out classes).")


def test_a_default_that_fails_is_said_to(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, [Noise(), Energy()], default=KNN(k=401))
    assert choice.recommended == "energy"
    assert [failure.label for failure in choice.failures] == ["knn"]
    assert choice.reason.startswith("The default, knn, cannot be used here (KNN looks for 401")
    assert all(each.gain is None for each in choice.ranked)


# The figures


def test_figures_are_those_of_explicit_loops(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, ["msp"], default="energy")
    folds, rates = [], []
    for left_out in range(5):
        kept = [c for c in range(5) if c != left_out]
        scores = -held_out.logits[:, kept].softmax(dim=1).amax(dim=1).numpy()
        is_out = (held_out.labels == left_out).numpy()
        folds.append(roc_auc_score(is_out, scores))
        rates.append(fpr95(scores[~is_out], scores[is_out]))
    found = row(choice, "msp")
    assert found.left_out.folds == pytest.approx(folds)
    assert found.left_out.auroc.value == pytest.approx(np.mean(folds))
    assert found.left_out.fpr95 == pytest.approx(np.mean(rates))
    interval = stats.ttest_1samp(folds, 0).confidence_interval(0.95)
    assert (found.left_out.auroc.low, found.left_out.auroc.high) == pytest.approx(
        (interval.low, min(1, interval.high))
    )
    inside, outside = (
        -batch.logits.softmax(dim=1).amax(dim=1).numpy() for batch in (held_out, spoiled)
    )
    on_corrupted = roc_auc_score([0] * 200 + [1] * 120, np.concatenate([inside, outside]))
    assert found.corrupted.auroc.value == pytest.approx(on_corrupted)
    assert found.corrupted.fpr95 == pytest.approx(fpr95(inside, outside))
    assert found.objective.value == pytest.approx((np.mean(folds) + on_corrupted) / 2)
    usual = row(choice, "energy").objective.value
    assert found.gain.value == pytest.approx(found.objective.value - usual)
    trained = -training.logits.softmax(dim=1).amax(dim=1).numpy()
    told = roc_auc_score([0] * 400 + [1] * 200, np.concatenate([trained, inside]))
    assert found.train_test.value == pytest.approx(told)


def test_neither_batches_nor_other_detectors_change_a_figure(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    together = choose(head, training, held_out, spoiled, ["knn", "vim", "msp"], default="energy")
    small = [InBatches(batch, 29) for batch in (training, held_out, spoiled)]
    alone = choose(head, *small, ["vim"], default="energy")
    for name in ("vim", "energy"):
        one, other = row(together, name), row(alone, name)
        assert one.objective.value == pytest.approx(other.objective.value, abs=1e-9)
        assert one.left_out.folds == pytest.approx(other.left_out.folds, abs=1e-9)


# What there is to go by


def test_of_two_classes_corrupted_images_alone_rank() -> None:
    head = LinearHead(torch.randn(2, 12), torch.zeros(2))
    train, held_out, spoiled = (random_activations(head, n, seed=n) for n in (100, 60, 50))
    choice = choose(head, train, held_out, spoiled, ["msp"], default="energy")
    assert choice.folds == 0
    assert all(each.left_out is None for each in choice.ranked)
    assert [e.objective for e in choice.ranked] == [e.corrupted.auroc for e in choice.ranked]
    assert choice.remarks[0].startswith(
        "Corrupted images alone rank the detectors: no class can be left out, as there are only 2 "
        "classes."
    )
    with pytest.raises(NotEnoughImages, match="at least three classes .there are 2, with labels"):
        choose(head, train, held_out, None, ["msp"])


def test_without_labels_corrupted_images_alone_rank(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, unlabelled(held_out), spoiled, ["msp"], default="energy")
    assert "as the held-out images have no labels" in choice.remarks[0]
    assert choice.corrupted_images == 120


def test_without_corrupted_images_classes_left_out_alone_rank(
    head: LinearHead, training: Activations, held_out: Activations
) -> None:
    choice = choose(head, training, held_out, None, ["msp"], default="energy")
    assert all(each.corrupted is None for each in choice.ranked)
    assert [e.objective for e in choice.ranked] == [e.left_out.auroc for e in choice.ranked]
    assert choice.remarks[0].startswith("Classes left out alone rank")


def test_classes_that_anything_tells_are_said_to_rank_nothing() -> None:
    head = LinearHead(20 * torch.eye(6), torch.zeros(6))
    labels = torch.arange(240) % 6
    features = torch.eye(6)[labels] + 0.01 * torch.rand(240, 6)
    images = Activations.from_features(features, head, labels)
    spoiled = Activations.from_features(torch.rand(60, 6), head)
    choice = choose(head, images[:120], images[120:], spoiled, ["msp"], default="energy")
    assert "2 of 2 detectors tell nearly every image of a class left out" in choice.remarks[0]


def test_detectors_that_fail_are_listed_with_their_reason(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    given = [KNN(k=401), "odin", "gram", "msp"]
    choice = choose(head, training, held_out, spoiled, given, default="energy")
    assert {each.detector for each in choice.ranked} == {"msp", "energy"}
    reasons = {each.label: each.reason for each in choice.failures}
    assert set(reasons) == {"knn", "odin", "gram"}
    assert "which the detector requires" in reasons["odin"]
    assert reasons["gram"].startswith("The activations lack 'layer1:gram5', which the detector")
    assert "401 neighbours" in reasons["knn"]
    with pytest.raises(InvalidInput, match="No detector could be used: odin"):
        choose(head, training, held_out, spoiled, ["odin"], default="odin")


def test_detectors_are_named_one_by_one_or_as_a_group() -> None:
    assert detectors_named(None) == [name for name in group("head") if name not in SLOW]
    assert DEFAULT in detectors_named(None)
    assert detectors_named("all") == group("all")
    assert detectors_named("msp, knn") == ["msp", "knn"]
    for text, message in (
        ("msp,msp", "'msp' is named twice"),
        ("mps", "did you mean"),
        (" ,", "' ,' names no detector"),
    ):
        with pytest.raises(InvalidInput, match=message):
            detectors_named(text)


def test_a_choice_is_the_same_when_read_again(
    head: LinearHead, training: Activations, held_out: Activations, spoiled: Activations
) -> None:
    choice = choose(head, training, held_out, spoiled, [create("msp")], default="energy", seed=3)
    assert Choice.model_validate_json(choice.model_dump_json()) == choice
    assert choice == choose(head, training, held_out, spoiled, ["msp"], default="energy", seed=3)
