"""NAC: states against autograd, bins as the authors', coverage counted in loops."""

import numpy as np
import pytest
import torch

from neroli import Activations, Classifier, LinearHead
from neroli.detectors import NAC, NACUE
from neroli.detectors.nac import NeuronStates, bin_edges
from neroli.errors import InvalidInput
from networks import untrained_resnet20


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


LAYERS = ("layer1", "layer2")
IMAGES = torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def states_by_autograd(alpha: tuple[float, ...]) -> list[np.ndarray]:
    """Of ResNet-20's first two stages and its features, image by image."""
    network, states = untrained_resnet20(), []
    for image in IMAGES:
        x = torch.relu(network.bn1(network.conv1(image[None])))
        first = network.layer1(x)
        second = network.layer2(first)
        features = network.layer3(second).mean(dim=(2, 3))
        loss = -network.linear(features).log_softmax(dim=1).mean()
        kept = (first, second, features)
        gradients = torch.autograd.grad(loss, kept)
        row = [
            torch.sigmoid(a * v.flatten(2).sum(2)[0] * g.flatten(2).sum(2)[0])
            if v.ndim == 4
            else torch.sigmoid(a * v[0] * g[0])
            for a, v, g in zip(alpha, kept, gradients, strict=True)
        ]
        states.append([layer.detach().numpy() for layer in row])
    return [np.stack(layer) for layer in zip(*states, strict=True)]


@pytest.mark.parametrize("frozen", [True, False])
def test_layers_are_covered_by_their_gradient_states(frozen: bool) -> None:
    network = untrained_resnet20().requires_grad_(not frozen)
    alpha, bins, full = (0.5, 2.0, 50.0), (10, 20, 30), (2.0, 3.0, 4.0)
    detector = NACUE(LAYERS, bins, full, alpha, images=None)
    classifier = Classifier(network)
    training = classifier(IMAGES[:20], requires=detector.requires)
    new = classifier(IMAGES[20:], requires=detector.requires)
    assert not new.extras["layer1:effect"].requires_grad
    head = LinearHead(network.linear.weight.detach(), network.linear.bias.detach())
    expected = np.zeros(10)
    for states, number, enough in zip(states_by_autograd(alpha), bins, full, strict=True):
        edges = bin_edges(number).numpy()
        for j in range(states.shape[1]):
            counts = np.histogram(states[:20, j], edges)[0]
            place = np.searchsorted(edges, states[20:, j], "right") - 1
            expected -= np.minimum(counts / enough, 1)[place] / states.shape[1] / 3
    scores = detector.fit(training, head).score(new)
    # a state at an edge may fall to either side by rounding, which changes one neuron's share
    np.testing.assert_allclose(scores, expected, atol=0.02)
    assert np.abs(scores.numpy() - expected).mean() < 1e-3


def test_a_network_that_works_in_place_gives_the_same_effects() -> None:
    class InPlace(torch.nn.Module):
        def __init__(self, body: torch.nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            body = self.body
            x = body.layer1(torch.relu(body.bn1(body.conv1(x)))).mul_(2.0).mul_(0.5)
            return body.linear(body.layer3(body.layer2(x)).mean(dim=(2, 3)))

    plain = NACUE(("layer1",), (4, 4), (1, 1), (1, 1))
    wrapped = NACUE(("body.layer1",), (4, 4), (1, 1), (1, 1))
    network = untrained_resnet20()
    expected = Classifier(network)(IMAGES, requires=plain.requires).extras["layer1:effect"]
    batch = Classifier(InPlace(network))(IMAGES, requires=wrapped.requires)
    torch.testing.assert_close(batch.extras["body.layer1:effect"], expected, rtol=1e-3, atol=1e-4)


def test_layers_and_their_settings_must_match() -> None:
    with pytest.raises(InvalidInput, match="alpha must be 3 numbers above 0.*got"):
        NACUE(LAYERS, (50, 50, 50), (1, 1, 1), (1, 1))
    with pytest.raises(InvalidInput, match="bins must be 4 numbers of 4 to a million"):
        NACUE(bins=(2, 50, 50, 50))
    with pytest.raises(InvalidInput, match="layers is empty"):
        NACUE(())
    lone = NACUE(("elsewhere",), (4, 4), (1, 1), (1, 1))
    network = untrained_resnet20()
    network.elsewhere = torch.nn.Identity()
    with pytest.raises(InvalidInput, match="elsewhere"):
        Classifier(network)(IMAGES, requires=lone.requires)
