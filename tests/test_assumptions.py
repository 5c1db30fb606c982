"""What detectors take for granted is checked when they are fitted, and said with figures."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.assumptions import Assumption, GatherFacts
from neroli.detectors import MSP, Detector, LINe
from neroli.errors import NeroliWarning


@dataclass(eq=False)
class Wary(Detector):
    """Takes everything for granted and learns nothing."""

    name: ClassVar[str] = "wary"
    assumes: ClassVar[tuple[Assumption, ...]] = ("positive energy", "more images than features")

    def compute(self, batch: Activations) -> Tensor:
        return batch.logits[:, 0]


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
    with pytest.warns(NeroliWarning) as caught:
        fit([Wary()], few, head)
    texts = [str(warning.message) for warning in caught]
    assert "not positive for 100% of the training images" in texts[0]
    assert "a covariance of 24 features from 20 images" in texts[1]


def test_facts_merge_and_do_not_depend_on_batches(head: LinearHead) -> None:
    known = random_activations(head, 90, shift=-1.0)
    signed = Activations.from_features(known.features - 0.1, head)
    whole, first, second = GatherFacts(), GatherFacts(), GatherFacts()
    whole.update(signed)
    for statistic, part in ((first, signed[:40]), (second, signed[40:])):
        for batch in part.batches(7):
            statistic.update(batch)
    first.merge(second)
    assert first.finalize() == whole.finalize()
    assert whole.finalize().negative == pytest.approx(float((signed.features < 0).double().mean()))
    assert torch.is_tensor(signed.logits)
