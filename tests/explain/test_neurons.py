"""Neurons beside what is usual, in loops; what is missing; sets compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.detectors import KNN, MSP, NERO, LINe, RelevanceDeviation
from neroli.errors import NotEnoughImages, NotFitted
from neroli.explain.neurons import compare, neurons_of
from neroli.explain.reference import Reference
from neroli.files import digest
from neroli.relevance import relevance


def with_hashes(batch: Activations) -> Activations:
    """Ids as stores give them."""
    return replace(batch, ids=[f"{i:032x}" for i in range(len(batch))])


@pytest.fixture
def known(head: LinearHead) -> Activations:
    return with_hashes(random_activations(head, 400))


def test_evidence_and_what_is_usual_in_loops(
    known: Activations, new: Activations, head: LinearHead
) -> None:
    detector = RelevanceDeviation()
    reference = Reference(detector)
    fit([detector, reference], known, head)
    found = neurons_of(detector, reference, new)
    weight, bias = head.weight.numpy(), head.bias.numpy()
    for i in range(6):
        c = int(new.predictions[i])
        rows = known.features[known.predictions == c].numpy() * weight[c]
        np.testing.assert_allclose(found.evidence[i], weight[c] * new.features[i].numpy())
        np.testing.assert_allclose(found.usual[i], rows.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.spread[i], rows.std(0), rtol=1e-5, atol=1e-6)
        assert found.bias_evidence[i] == bias[c] == pytest.approx(float(found.usual_bias[i]))
        assert found.classes[i] == c
        silent = new.features[i].numpy() == 0
        size = np.abs(found.deviation[i].numpy())
        assert float(found.missing[i]) == pytest.approx(size[silent].sum() / size.sum())
    assert found.shares is not None
    torch.testing.assert_close(found.shares.score, detector.score(new))
    best = found.deviation[0].abs().argsort(descending=True)[:3]
    assert found.top(3)[0].tolist() == best.tolist()


def test_nero_compares_relevance_with_the_nearest_class(
    known: Activations, new: Activations, head: LinearHead
) -> None:
    nero = NERO()
    reference = Reference(nero)
    fit([nero, reference], known, head)
    found = neurons_of(nero, reference, new)
    expected, bias = relevance(new, head)
    torch.testing.assert_close(found.evidence, expected)
    torch.testing.assert_close(found.bias_evidence, bias)
    projected = (expected - nero.centre) @ nero.directions.T
    nearest = torch.cdist(projected, nero.centroids, p=1).argmin(1)
    assert torch.equal(found.classes, nearest)
    assert (nearest != new.predictions).any()
    of_class = relevance(known, head)[0][known.predictions == 1].mean(0)
    torch.testing.assert_close(reference.mean[1, :-1].double(), of_class, rtol=1e-5, atol=1e-6)


def test_a_detector_that_is_no_sum_still_shows_evidence(
    known: Activations, new: Activations, head: LinearHead
) -> None:
    for detector in (KNN(bank_size=50), MSP()):
        reference = Reference(detector)
        fit([detector, reference], known, head)
        found = neurons_of(detector, reference, new)
        assert found.shares is None
        assert found.top(2)[0, 0] == found.deviation[0].abs().argmax()
        assert found.to_dict(0)["top"][0]["share"] is None


def test_the_reference_keeps_the_images_that_show_a_neuron(
    known: Activations, head: LinearHead
) -> None:
    reference = Reference(LINe(), top=3, by_activation=True, examples=20)
    fit([reference], known, head)
    assert known.labels is not None and known.ids is not None
    own = (head.weight[known.labels] * known.features).numpy()
    for neuron in range(24):
        for row, index in zip(
            reference.state["relevant"][:, neuron], np.argsort(-own[:, neuron]), strict=False
        ):
            assert bytes(row.tolist()).hex() == known.ids[index]
        most = int(known.features[:, neuron].argmax())
        assert bytes(reference.state["active"][0, neuron].tolist()).hex() == known.ids[most]
    for row, name in zip(reference.state["examples"], reference.state["example_ids"], strict=True):
        index = int(bytes(name.tolist()).hex(), 16)
        expected = head.weight[known.predictions[index]] * known.features[index]
        torch.testing.assert_close(row[:-1].double(), expected, rtol=1e-5, atol=1e-6)
    assert len(reference.state["examples"]) == 20


def test_of_the_kept_images_those_are_shown_in_which_a_neuron_says_most(
    known: Activations, head: LinearHead
) -> None:
    line = LINe()
    reference = Reference(line, top=3, examples=20)
    fit([line, reference], known, head)
    assert known.ids is not None
    kept = [known.ids.index(bytes(row.tolist()).hex()) for row in reference.example_ids]
    evidence = (head.weight[known.predictions[kept]] * known.features[kept]).numpy()
    found = neurons_of(line, reference, known[:1])
    shown = reference.examples_of(found, [0, 5]).kept_of_neurons
    assert shown.keys() == {0, 5}
    for neuron, ids in shown.items():
        order = np.argsort(-evidence[:, neuron], kind="stable")
        expected = [known.ids[kept[i]] for i in order[:3] if evidence[i, neuron] > 0]
        assert ids == expected


def test_what_is_not_fitted_says_so(new: Activations, known: Activations, head: LinearHead) -> None:
    line = LINe().fit(known, head)
    with pytest.raises(NotFitted, match="reference"):
        neurons_of(line, Reference(line), new)


def test_sets_are_compared_with_intervals(head: LinearHead) -> None:
    inside = random_activations(head, 300)
    outside = random_activations(head, 100, seed=3, shift=0.5)
    found = compare(LINe(), head, inside, outside)
    values = [
        torch.cat([head.weight[b.predictions] * b.features, head.bias[b.predictions, None]], 1)
        for b in (inside, outside)
    ]
    means, errors = zip(
        *((v.mean(0), v.var(0, correction=0) / len(v)) for v in values), strict=True
    )
    torch.testing.assert_close(found.difference, means[1] - means[0])
    torch.testing.assert_close(found.margin, norm.ppf(0.975) * (errors[0] + errors[1]).sqrt())
    same = compare(NERO(), head, inside, random_activations(head, 300, seed=9))
    beyond = (same.difference.abs() > same.margin).double().mean()
    assert beyond < 0.3


def test_one_image_has_no_interval(head: LinearHead) -> None:
    many, one = random_activations(head, 50), random_activations(head, 1)
    with pytest.raises(NotEnoughImages, match="two images"):
        compare(LINe(), head, many, one)


def test_ids_of_any_kind_are_kept_as_hashes(training: Activations, head: LinearHead) -> None:
    reference = Reference(LINe(), examples=5)
    fit([reference], training, head)
    assert training.ids is not None
    known = {digest(name.encode()).hex() for name in training.ids}
    assert {bytes(row).hex() for row in reference.example_ids.numpy()} <= known
