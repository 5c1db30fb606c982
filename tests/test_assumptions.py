"""What detectors take for granted is checked when they are fitted, and said with figures."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from batteries import EVERY, create, equipped
from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.assumptions import FEW, Assumption, GatherFacts
from neroli.detectors import (
    MSP,
    NECO,
    SHE,
    CADRef,
    Detector,
    Ensemble,
    KLMatching,
    LINe,
    Mahalanobis,
    MultiLayerMahalanobis,
    OpenMax,
    ViM,
)
from neroli.errors import NeroliWarning


@dataclass(eq=False)
class Wary(Detector):
    """Takes everything for granted and learns nothing."""

    name: ClassVar[str] = "wary"
    assumes: ClassVar[tuple[Assumption, ...]] = ("positive energy", "more images than features")

    def compute(self, batch: Activations) -> Tensor:
        return batch.logits[:, 0]


def said(detector: Detector, training: Activations, head: LinearHead) -> list[str]:
    """What fitting warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit([detector], training, head)
    return [str(one.message) for one in caught if issubclass(one.category, NeroliWarning)]


def test_what_holds_is_not_warned_of(training: Activations, head: LinearHead) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit([LINe(), MSP(), Wary()], training, head)


def test_signed_features_are_said_with_their_share(head: LinearHead) -> None:
    known = random_activations(head, 200)
    signed = Activations.from_features(known.features - 0.3, head, known.labels)
    share = (signed.features < 0).double().mean()
    with pytest.warns(NeroliWarning, match=f"LINe is made for .*{share:.0%} of this network's"):
        fit([LINe(), MSP()], signed, head)


def test_few_images_and_low_energies_are_said_also_where_nothing_is_learned(
    head: LinearHead,
) -> None:
    few = random_activations(head, 20)
    few = Activations(few.features, few.logits - 1000, few.labels)
    texts = said(Wary(), few, head)
    assert "not positive for 100% of the training images" in texts[0]
    assert "a covariance of 24 features from 20 images" in texts[1]


@EVERY
def test_every_detector_is_warned_of_what_it_assumes(name: str) -> None:
    """Once for each assumption, where none of them holds, with a figure and a remedy."""
    head = LinearHead(torch.eye(2, 80, dtype=torch.float64), torch.full((2,), -100.0))
    labels = torch.arange(70) // 65  # five images of class 1, and fewer than features in all
    features = torch.randn(70, 80, dtype=torch.float64)
    features[:, :2] = 3 * torch.eye(2, dtype=torch.float64)[labels]
    training = Activations.from_features(features, head, labels)
    assert torch.equal(training.predictions, labels)
    texts = said(create(name), equipped(training, name), head)
    texts = [text for text in texts if "count for nothing" not in text]  # which is no assumption
    assert len(texts) == len(create(name).assumed)
    assert all(any(character.isdigit() for character in text) for text in texts)


def test_shrinkage_is_said(head: LinearHead) -> None:
    few = random_activations(head, 22)
    detector = Mahalanobis(shrinkage=0.25)
    assert "24 features from 22 images" in said(detector, few, head)[0]
    assert "(it is shrunk by 25%)" in said(detector, few, head)[0]
    learned = Mahalanobis()
    text = said(learned, few, head)[0]
    assert learned.shrunk is not None
    assert 0 < learned.shrunk < 1
    assert f"(it is shrunk by {learned.shrunk:.0%})" in text
    assert "shrunk" not in said(ViM(dim=5), few, head)[0]
    together = Ensemble(["msp", learned])
    assert f"(it is shrunk by {learned.shrunk:.0%})" in said(together, few, head)[0]
    layers = MultiLayerMahalanobis(("layer1",), shrinkage=0.5)
    assert "by 50%" in said(layers, equipped(few, layers.name), head)[0]


def test_classes_with_few_images_are_said_by_the_images_that_count(head: LinearHead) -> None:
    known = random_activations(head, 400)
    assert known.labels is not None
    rows = (known.labels != 2) & (known.labels != 4)
    rows[(known.labels == 2).nonzero()[: FEW - 1]] = True
    some = known.select(rows)
    assert said(SHE(labels="true"), some, head) == [
        "SHE learns from the training images of each class, and 2 of 5 classes have fewer than 10 "
        "(class 4 has none): give more of them, or expect less of it there."
    ]
    assert "images classified correctly as each class" in said(SHE(), some, head)[0]
    assert "images classified correctly as each class" in said(OpenMax(), some, head)[0]
    predicted = Activations(known.features, known.logits)
    assert said(KLMatching(), predicted, head) == []
    only = predicted.select(predicted.predictions != 1)
    assert "images predicted as each class" in said(KLMatching(), only, head)[0]
    assert (
        "1 of 5 classes have fewer than 10 (class 1 has none)" in said(KLMatching(), only, head)[0]
    )
    assert "images predicted as" in said(Mahalanobis(labels="predicted"), only, head)[0]
    rows = known.labels != 2
    rows[(known.labels == 2).nonzero()[:FEW]] = True
    assert said(SHE(labels="true"), known.select(rows), head) == []


def test_hyperparameters_that_avoid_an_assumption_are_not_warned_of(head: LinearHead) -> None:
    known = random_activations(head, 400)
    low = LinearHead(head.weight, head.bias - 1000)
    negative = Activations.from_features(known.features, low, known.labels)
    assert (
        "turns round where all are negative, as they are for 100%" in said(NECO(), negative, low)[0]
    )
    assert said(NECO(max_logit=False), negative, low) == []
    assert "not positive for 100%" in said(CADRef(), negative, low)[0]
    assert said(CADRef(logit_score="msp"), negative, low) == []


def test_an_ensemble_assumes_what_its_members_do(head: LinearHead) -> None:
    known = random_activations(head, 400)
    rows = known.predictions != 1
    labelled = Activations(known.features, known.logits, known.labels).select(rows)
    ensemble = Ensemble(members=[SHE(labels="predicted"), "msp"])
    assert (
        "Ensemble learns from the training images predicted as" in said(ensemble, labelled, head)[0]
    )


def test_facts_merge_and_do_not_depend_on_batches(head: LinearHead) -> None:
    known = random_activations(head, 90, shift=-1.0)
    signed = Activations.from_features(known.features - 0.1, head, known.labels)
    whole, first, second = GatherFacts(), GatherFacts(), GatherFacts()
    whole.update(signed)
    for statistic, part in ((first, signed[:40]), (second, signed[40:])):
        for batch in part.batches(7):
            statistic.update(batch)
    first.merge(second)
    facts = whole.finalize()
    assert first.finalize() == facts
    assert facts.negative == pytest.approx(float((signed.features < 0).double().mean()))
    assert facts.classes["true"] == (18,) * 5
    assert sum(facts.classes["predicted"]) == 90
    right = signed.labels == signed.predictions
    assert sum(facts.classes["correct"]) == int(right.sum())
