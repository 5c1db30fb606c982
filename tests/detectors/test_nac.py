"""NAC: states against autograd, bins as the authors', coverage counted in loops."""

import numpy as np
import pytest
import torch

from neroli import Activations, LinearHead
from neroli.detectors import NAC
from neroli.detectors.nac import NeuronStates, bin_edges


def test_states_are_those_of_the_gradient(training: Activations, head: LinearHead) -> None:
    """Of the cross entropy between the uniform distribution and the softmax, by autograd."""
    features = training.features.clone().requires_grad_()
    (-head(features).log_softmax(dim=1).mean(dim=1)).sum().backward()
    assert features.grad is not None
    expected = torch.sigmoid(30 * features.detach() * features.grad)
    torch.testing.assert_close(NeuronStates(head, 30.0)(training), expected)


def test_edges_are_dense_around_one_half_which_is_exact() -> None:
    edges = bin_edges(50)
    assert len(edges) == 50 and edges[0] == 0 and edges[-1] == 1.2
    assert (edges.diff() > 0).all()
    assert 0.5 in edges.tolist() and 0.5 in edges.float().tolist()
    half = np.log(np.linspace(1, np.sqrt(1000), 25)) / np.log(1000)
    expected = [*half[:-1], *(1 - half[:0:-1]), 1.01, 1.2]
    np.testing.assert_allclose(edges, expected, atol=1e-15)
    assert bin_edges(4).tolist() == [0.0, 0.5, 1.01, 1.2]
    assert torch.equal(bin_edges(51), edges)


@pytest.mark.parametrize("images", [None, 1000])
def test_equals_counting_by_hand(
    training: Activations, new: Activations, head: LinearHead, images: int | None
) -> None:
    full, number = 20.0, 20
    edges = bin_edges(number).numpy()
    counts = np.zeros((24, number - 1))
    for row in NeuronStates(head, 5.0)(training).numpy():
        for neuron, state in enumerate(row):
            counts[neuron] += (edges[:-1] <= state) & (state < edges[1:])
    scale = 1 if images is None else images / 400
    coverage = np.minimum(counts * scale / full, 1)
    expected = [
        -np.mean([coverage[i, np.searchsorted(edges, s, "right") - 1] for i, s in enumerate(row)])
        for row in NeuronStates(head, 5.0)(new).numpy()
    ]
    nac = NAC(number, full, 5.0, images).fit(training, head)
    np.testing.assert_allclose(nac.score(new), expected, rtol=1e-12)


def test_the_number_of_training_images_does_not_change_the_score(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    twice = Activations.concatenate([training, training])
    once, more = NAC().fit(training, head), NAC().fit(twice, head)
    torch.testing.assert_close(more.score(new), once.score(new))


def test_states_at_both_ends_lie_in_a_bin(training: Activations, head: LinearHead) -> None:
    nac = NAC(alpha=1e9).fit(training, head)
    assert NeuronStates(head, 1e9)(training).max() == 1
    scores = nac.score(training)
    assert (scores < 0).all() and (scores >= -1).all()
