"""Ranks and tests against Demšar's tables and SciPy."""

import numpy as np
import pytest
from scipy.stats import binom, chi2, friedmanchisquare

from neroli.benchmark.ranking import critical_difference, mean_ranks

# AUROC of four classifiers on 14 data sets: Demšar 2006, table 6. The paper ranks the last two on
# the 13th as 2 and 3, by digits that it does not print.
TABLE = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T


def test_the_worked_example_of_the_paper() -> None:
    assert mean_ranks(TABLE) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    found = critical_difference(TABLE)
    assert found is not None and found.sets == 14
    assert found.distance == pytest.approx(1.25, abs=5e-3)
    lenient = critical_difference(TABLE, level=0.10)
    assert lenient is not None and lenient.distance == pytest.approx(1.12, abs=5e-3)


@pytest.mark.parametrize(
    ("detectors", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_values_are_those_of_the_published_table(detectors: int, quantile: float) -> None:
    sets = 6
    found = critical_difference(np.random.default_rng(0).random((detectors, sets)))
    assert found is not None
    expected = quantile * (detectors * (detectors + 1) / (6 * sets)) ** 0.5
    assert found.distance == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize(("detectors", "sets"), [(3, 2), (4, 9), (20, 5)])
def test_friedmans_p_value_is_scipys(detectors: int, sets: int, decimals: int) -> None:
    auroc = np.random.default_rng(1).random((detectors, sets)).round(decimals)
    found = critical_difference(auroc)
    assert found is not None
    assert found.p_value == pytest.approx(friedmanchisquare(*auroc).pvalue, rel=1e-9)


def test_two_detectors_are_compared_by_how_often_each_wins() -> None:
    auroc = np.array([[0.9] * 8 + [0.5], [0.6] * 9])  # eight wins, one loss
    found = critical_difference(auroc)
    assert found is not None
    assert found.p_value == pytest.approx(chi2.sf((8 - 1) ** 2 / 9, 1))
    assert abs(found.p_value - 2 * binom.cdf(1, 9, 0.5)) < 0.03  # the exact sign test
    assert mean_ranks(auroc) == pytest.approx([10 / 9, 17 / 9])


def test_equal_detectors_share_ranks_and_are_alike() -> None:
    auroc = np.full((3, 4), 0.8)
    assert mean_ranks(auroc) == pytest.approx([2, 2, 2])
    found = critical_difference(auroc)
    assert found is not None and found.p_value == 1
    assert mean_ranks(np.array([[0.9, 0.7], [0.9, 0.8], [0.5, 0.9]])) == pytest.approx(
        [(1.5 + 3) / 2, (1.5 + 2) / 2, (3 + 1) / 2]
    )


def test_one_set_or_one_detector_cannot_be_tested_but_ranked() -> None:
    assert critical_difference(np.array([[0.9], [0.8], [0.7]])) is None
    assert critical_difference(np.array([[0.9, 0.8]])) is None
    assert mean_ranks(np.array([[0.8], [0.9], [0.7]])).tolist() == [2, 1, 3]
    assert mean_ranks(np.array([[0.9, 0.8]])).tolist() == [1]
