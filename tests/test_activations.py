"""A batch of activations."""

import numpy as np
import pytest
import torch

from neroli import Activations, LinearHead
from neroli.errors import InvalidInput


def test_from_features_adds_the_logits_without_downcasting(head: LinearHead) -> None:
    features = np.random.default_rng(0).normal(size=(6, 24))
    for dtype in (np.float32, np.float64):
        activations = Activations.from_features(features.astype(dtype), head)
        expected = features.astype(dtype) @ head.weight.numpy().T + head.bias.numpy()
        assert activations.features.numpy().dtype == activations.logits.numpy().dtype == dtype
        np.testing.assert_allclose(activations.logits.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_labels_of_any_integer_type_become_int64(head: LinearHead) -> None:
    labels = np.array([0, 4, 2], dtype=np.uint8)
    activations = Activations.from_features(torch.zeros(3, 24), head, labels)
    assert activations.labels is not None
    assert activations.labels.dtype == torch.int64


def test_batches_and_concatenate_are_inverse(training: Activations) -> None:
    again = Activations.concatenate(list(training.batches(37)))
    assert torch.equal(again.features, training.features)
    assert torch.equal(again.logits, training.logits)
    assert again.labels is not None and training.labels is not None
    assert torch.equal(again.labels, training.labels)
    assert again.ids == training.ids


def test_half_precision_becomes_float32_and_precisions_must_agree() -> None:
    half = Activations(torch.ones(2, 3).half(), torch.ones(2, 2).bfloat16())
    assert half.features.dtype == half.logits.dtype == torch.float32
    with pytest.raises(InvalidInput, match="float32 and logits torch.float64"):
        Activations(torch.ones(2, 3), torch.ones(2, 2).double())


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(3, 23), None, r"\[N, 24\]"),
        (torch.zeros(3, 24, dtype=torch.int64), None, "floating-point"),
        (torch.zeros(24), None, r"shape \[24\]"),
        (torch.zeros(3, 24), torch.tensor([0, 1, 5]), "Label 5 is not a class"),
        (torch.zeros(3, 24), torch.tensor([0, -1, 2]), "Label -1 is not a class"),
        (torch.zeros(3, 24), torch.tensor([0.0, 1.0, 2.0]), "integer class indices"),
        (torch.zeros(3, 24), torch.tensor([0, 1]), "labels has 2 rows where features has 3"),
    ],
)
def test_refuses_what_does_not_fit(
    head: LinearHead, features: torch.Tensor, labels: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Activations.from_features(features, head, labels)
