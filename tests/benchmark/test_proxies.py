"""Many detectors at once on stand-ins for OOD data: each as alone, none lost by another."""

import numpy as np
import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.benchmark.proxies import fitted, held_out_scores
from neroli.detectors import KNN, Detector, Energy, create
from neroli.errors import NotEnoughImages
from neroli.fitting import fit_held_out

NAMES = ("energy", "nero", "temperature_scaled_msp", "ensemble", "mahalanobis")


@pytest.fixture
def clean(head: LinearHead) -> Activations:
    return random_activations(head, 60, seed=5)


@pytest.fixture
def spoiled(head: LinearHead) -> Activations:
    return random_activations(head, 40, seed=6, shift=0.5)


def test_scores_are_those_of_each_detector_alone(
    training: Activations, head: LinearHead, clean: Activations, spoiled: Activations
) -> None:
    """Also of those that learn from held-out images, which are the clean ones."""
    found = held_out_scores(
        [create(name) for name in NAMES], training, head, clean, {"corrupted": spoiled}
    )
    for name, scores in zip(NAMES, found, strict=True):
        alone = create(name).fit(training, head)
        fit_held_out([alone], clean, head)
        np.testing.assert_allclose(scores["held-out"], alone.score(clean), rtol=1e-9)
        np.testing.assert_allclose(scores["corrupted"], alone.score(spoiled), rtol=1e-9)


def test_whichever_fail_the_others_are_fitted(
    training: Activations, head: LinearHead, clean: Activations
) -> None:
    fails = [False, True, True, False, False, True, False]
    detectors = [KNN(k=401 if fail else 3 + n) for n, fail in enumerate(fails)]
    learners = fitted(detectors, training, head, clean)
    assert [learner.error is not None for learner in learners] == fails
    for detector, learner in zip(detectors, learners, strict=True):
        if learner.error:
            assert str(learner.error).startswith("KNN looks for 401 neighbours among only 400")
        else:
            alone = KNN(k=detector.k).fit(training, head)
            assert torch.equal(learner.score(clean), alone.score(clean))


def test_linear_algebra_that_fails_is_a_failure_too(
    training: Activations, head: LinearHead, clean: Activations, spoiled: Activations
) -> None:
    class Singular(Energy):
        def compute(self, batch: Activations) -> torch.Tensor:
            return torch.linalg.inv(batch.features.new_zeros(2, 2))

    singular, energy = held_out_scores(
        [Singular(), Energy()], training, head, clean, {"corrupted": spoiled}
    )
    assert "singular" in singular
    assert len(energy["corrupted"]) == 40


def test_a_detector_already_fitted_stays_as_it_is(
    training: Activations, head: LinearHead, clean: Activations, spoiled: Activations
) -> None:
    knn: list[Detector] = [KNN(k=3).fit(training[:50], head)]
    before = knn[0].score(clean)
    held_out_scores(knn, training, head, clean, {"corrupted": spoiled})
    assert torch.equal(knn[0].score(clean), before)


def test_doubts_about_a_stand_in_are_not_warned_of(
    training: Activations, head: LinearHead, clean: Activations, spoiled: Activations
) -> None:
    few = training[:20]  # Mahalanobis learns a covariance of 24 features; warnings are errors here
    (scores,) = held_out_scores([create("mahalanobis")], few, head, clean, {"corrupted": spoiled})
    assert len(scores["held-out"]) == 60


@pytest.mark.parametrize("kind", ["held-out", "corrupted"])
def test_both_kinds_of_images_are_needed(
    kind: str, training: Activations, head: LinearHead, clean: Activations, spoiled: Activations
) -> None:
    held_out, others = (clean[:0], spoiled) if kind == "held-out" else (clean, spoiled[:0])
    with pytest.raises(NotEnoughImages, match=f"no {kind} image"):
        held_out_scores([Energy()], training, head, held_out, {"corrupted": others})
