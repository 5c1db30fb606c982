"""Relevance in closed form against a loop written from the definition, and autograd."""

import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.errors import InvalidInput
from neroli.relevance import relevance


def looped(batch: Activations, head: LinearHead, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """methods: r_j = a_j sum_k p_k w_kj / z_k, image by image, class by class, neuron by neuron."""
    neurons, biases = torch.zeros_like(batch.features), torch.zeros(len(batch)).double()
    for i, (a, z) in enumerate(zip(batch.features, batch.logits, strict=True)):
        p = torch.exp(z) / torch.exp(z).sum()
        for k in range(head.num_classes):
            denominator = z[k] + (eps if z[k] >= 0 else -eps)
            for j in range(head.num_features):
                neurons[i, j] += a[j] * head.weight[k, j] * p[k] / denominator
            biases[i] += head.bias[k] * p[k] / denominator
    return neurons, biases


@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_equals_the_definition(head: LinearHead, eps: float) -> None:
    batch = random_activations(head, 12)
    actual, expected = relevance(batch, head, eps), looped(batch, head, eps)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-11, atol=1e-12)


def test_sums_to_one_with_the_bias(head: LinearHead) -> None:
    neurons, bias = relevance(random_activations(head, 300), head)
    torch.testing.assert_close(neurons.sum(1) + bias, torch.ones(300).double())


def test_equals_gradient_times_input_of_the_log_logits(head: LinearHead) -> None:
    """sum_k p_k log|z_k| with p held has gradient sum_k p_k w_kj / z_k."""
    batch = random_activations(head, 20)
    features = batch.features.clone().requires_grad_()
    logits = head(features)
    (logits.softmax(1).detach() * logits.abs().log()).sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(relevance(batch, head)[0], features * features.grad)


def test_a_logit_of_exactly_zero_is_left_out(head: LinearHead) -> None:
    batch = random_activations(head, 1)
    logits = batch.logits.clone()
    logits[0, 2] = 0
    zeroed = Activations(batch.features, logits)
    neurons, bias = relevance(zeroed, head)
    assert torch.isfinite(neurons).all()
    without = logits.softmax(1) / logits
    without[0, 2] = 0
    torch.testing.assert_close(neurons, batch.features * (without @ head.weight))
    torch.testing.assert_close(bias, without @ head.bias)


def test_negative_eps_is_refused(head: LinearHead) -> None:
    with pytest.raises(InvalidInput, match="eps"):
        relevance(random_activations(head, 1), head, -1.0)
