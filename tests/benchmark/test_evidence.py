"""How surely an AUROC, or a mean of several, is known: against bootstraps and scipy's tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from neroli.benchmark.evidence import (
    Evidence,
    auroc_difference,
    holm,
    mean_of,
    measured_auroc,
    sample_mean,
)
from neroli.benchmark.proxies import Scores


def test_the_error_of_an_auroc_is_that_of_a_bootstrap() -> None:
    draw = np.random.default_rng(0)
    inside, outside = draw.normal(0, 1, 80), draw.normal(1, 1, 60)
    drawn = [
        (draw.choice(inside, 80)[:, None] < draw.choice(outside, 60)).mean() for _ in range(3000)
    ]
    measured = measured_auroc(Scores(inside, outside))
    assert measured.value == pytest.approx((inside[:, None] < outside).mean())
    assert measured.error == pytest.approx(np.std(drawn), rel=0.08)


def test_the_chance_of_a_mean_of_two_is_that_of_welchs_test() -> None:
    """Half the difference of two means with unlike variances and numbers."""
    draw = np.random.default_rng(1)
    one, other = draw.normal(0.6, 1, 10), draw.normal(0, 3, 25)
    half = mean_of([sample_mean(one), sample_mean(-other)])
    expected = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    assert half.value == pytest.approx((one.mean() - other.mean()) / 2)
    assert half.freedom == pytest.approx(expected.df)
    assert half.chance() == pytest.approx(expected.pvalue)
    both = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    limits = half.interval()
    assert (2 * limits.low, 2 * limits.high) == pytest.approx((both.low, both.high))


def test_of_a_single_fold_or_image_nothing_is_sure() -> None:
    assert sample_mean([0.9]).chance() == 1
    scores = Scores(np.array([0.0]), np.array([1.0, 2.0]))
    assert measured_auroc(scores).interval().low == -np.inf
    assert auroc_difference(scores, scores).chance() == 1
    assert mean_of([sample_mean([0.9]), sample_mean([0.5, 0.6])]).error == np.inf


def test_chances_are_corrected_by_holms_procedure() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 by 4, 3, 2, 1: 0.02, 0.03, 0.06 and 0.04, which stays 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def equals(draw: np.random.Generator, images: int, apart: float) -> list[Evidence]:
    """Of two detectors that do equally well, on so many images of each of ten classes.

    Their scores of an image are alike, those of a corrupted image like those of the clean one.
    """
    labels = np.repeat(np.arange(10), images)

    def noise() -> np.ndarray:
        common = draw.normal(size=(len(labels), 1))
        return np.sqrt(0.7) * common + np.sqrt(0.3) * draw.normal(size=(len(labels), 2))

    clean = noise()
    spoiled, new = (clean / 2 + np.sqrt(0.75) * noise() + apart for _ in range(2))
    new += 0.2 * draw.normal(size=(10, 2))[labels]  # some classes are easier, for either detector
    return [
        Evidence(
            tuple(Scores(clean[labels != c, k], new[labels == c, k]) for c in range(10)),
            Scores(clean[:, k], spoiled[:, k]),
        )
        for k in (0, 1)
    ]


def test_intervals_and_chances_over_simulated_choices() -> None:
    """The interval of the objective is too narrow by little; a false gain on both kinds is rare."""
    draw = np.random.default_rng(3)
    apart = np.sqrt(2) * ndtri(0.95)
    truth = 0.95 / 2 + stats.norm.cdf(apart / np.sqrt(2.04)) / 2
    covered = found = 0
    for _ in range(200):
        one, other = equals(draw, 20, apart)
        limits = one.objective().interval()
        covered += limits.low <= truth <= limits.high
        found += max(each.chance() for each in one.gains_over(other).values()) < 0.05
    assert 0.85 <= covered / 200 <= 0.98
    assert found / 200 <= 0.05
