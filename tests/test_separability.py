"""Which detectors tell training images from held-out ones, and what is said of that."""

from __future__ import annotations

import numpy as np
import torch

from batteries import InBatches
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.benchmark.evidence import measured_auroc
from neroli.benchmark.proxies import Scores
from neroli.choosing import choose
from neroli.detectors import KNN
from neroli.separability import MOST_SCORED, separability_warnings, training_sample


def test_held_out_images_of_another_kind_are_warned_of(
    head: LinearHead, training: Activations
) -> None:
    shifted = random_activations(head, 200, seed=5)
    moved = Activations.from_features(
        shifted.features[:, torch.randperm(24)] * 0.3, head, shifted.labels, shifted.ids
    )
    names = ["msp", "max_logit", "mahalanobis", "relevance_deviation"]
    choice = choose(head, training, moved, None, names, default="energy")
    assert "4 of 5 detectors tell training from held-out images" in choice.warnings[0]
    assert "another hospital" in choice.warnings[0]
    assert "its accuracy is" in choice.warnings[0]


def test_a_detector_that_knows_its_training_images_again_is_warned_of(
    head: LinearHead, training: Activations
) -> None:
    """The nearest neighbour of a training image is itself."""
    held_out = random_activations(head, 200, seed=5)
    names = ["msp", "max_logit", "feature_norm"]
    choice = choose(head, training, held_out, None, [KNN(k=1), *names], default="energy")
    (warning,) = choice.warnings
    assert warning.startswith("knn (100.0%) tells training from held-out images (AUROC")
    assert "it scores what it was fitted on too low" in warning
    (knn,) = (each for each in choice.ranked if each.detector == "knn")
    assert knn.train_test.value == 1
    others = choose(head, training, held_out, None, names, default="energy")
    assert others.warnings == []


def test_one_is_told_of_beside_a_network_that_most_see_through() -> None:
    draw = np.random.default_rng(0)

    def shifted(by: float):  # type: ignore[no-untyped-def]
        return measured_auroc(Scores(draw.normal(0, 1, 2000), draw.normal(by, 1, 2000)))

    aurocs = {f"d{i}": shifted(0.3) for i in range(4)} | {"own": shifted(2.0), "none": shifted(0)}
    images, detector = separability_warnings(aurocs, (0.99, 0.75))
    assert images.startswith("5 of 6 detectors")
    assert "its accuracy is 99.0% and 75.0%" in images
    assert detector.startswith("own (9")
    assert "more than the other detectors do" in detector
    few = {"d": measured_auroc(Scores(draw.normal(0, 1, 5), draw.normal(0.5, 1, 5)))}
    assert separability_warnings(few) == [], "five images prove nothing"


def test_the_training_images_scored_do_not_depend_on_their_order() -> None:
    head = LinearHead(torch.randn(3, 4), torch.zeros(3))
    many = random_activations(head, MOST_SCORED + 800, seed=1)
    order = torch.randperm(len(many))
    mixed = Activations(
        many.features[order], many.logits[order], None, [many.ids[i] for i in order.tolist()]
    )

    def drawn(source: Activations, seed: int) -> set[str]:
        batches = training_sample(InBatches(source, 999), seed).batches()
        return {name for batch in batches for name in batch.ids}

    assert len(drawn(many, 0)) == MOST_SCORED
    assert drawn(many, 0) == drawn(mixed, 0) != drawn(many, 1)
    assert training_sample(many[:50], 0) is not None
    assert len(training_sample(many[:50], 0)) == 50
    assert len(training_sample(many, 0, most=70)) == 70
