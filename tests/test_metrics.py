"""Metrics against values worked out by hand and against counting pairs."""

import numpy as np
import pytest
import torch

from neroli import metrics
from neroli.errors import InvalidInput

ID, OOD = np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 2.0, 4.0])


def test_auroc_counts_pairs_with_ties_as_half() -> None:
    pairs = [(i < o) + 0.5 * (i == o) for i in ID for o in OOD]
    assert metrics.auroc(ID, OOD) == pytest.approx(np.mean(pairs))
    assert metrics.auroc(OOD, ID) == pytest.approx(1 - np.mean(pairs))


def test_fpr95_is_the_share_of_ood_at_or_below_the_upper_95_percent_quantile_of_id() -> None:
    inside = np.arange(100.0)  # 95 % of 99 is 94.05: the higher neighbour is 95
    assert metrics.fpr95(inside, np.array([94.0, 95.0, 95.5, 200.0])) == 0.5
    assert metrics.fpr95(ID, OOD) == pytest.approx(2 / 3)


def test_aupr_is_the_mean_precision_at_each_positive() -> None:
    inside, outside = np.array([1.0, 3.0]), np.array([2.0, 4.0])
    assert metrics.aupr_out(inside, outside) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics.aupr_in(inside, outside) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics.aupr_out(np.array([9.0, 8.0]), outside) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_arrays_lists_and_tensors_are_the_same() -> None:
    for form in (list, torch.tensor, np.float32):
        assert metrics.auroc(form(ID), form(OOD)) == metrics.auroc(ID, OOD)


def test_interval_holds_the_value_narrows_with_data_and_repeats() -> None:
    draw = np.random.default_rng(0)

    def width(n: int) -> float:
        inside, outside = draw.normal(size=n), draw.normal(1, size=n)
        interval = metrics.interval(metrics.auroc, inside, outside, resamples=200)
        assert interval.low < interval.value < interval.high
        assert interval == metrics.interval(metrics.auroc, inside, outside, resamples=200)
        return interval.high - interval.low

    assert 2 < width(100) / width(1600) < 8  # 4 in the limit


def test_interval_covers_the_true_auroc_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    truth = 0.7602499389065233  # of two unit normals one apart
    covered = 0
    for _ in range(60):
        inside, outside = draw.normal(size=60), draw.normal(1, size=60)
        interval = metrics.interval(metrics.auroc, inside, outside, level=0.8, resamples=60)
        covered += interval.low <= truth <= interval.high
    assert 38 <= covered <= 56


@pytest.mark.parametrize(
    ("scores", "message"),
    [([], "non-empty"), ([[1.0]], "shape"), ([1.0, np.nan], "NaN"), (["a"], "numbers")],
)
def test_unusable_scores_are_refused(scores: list[object], message: str) -> None:
    for metric in (metrics.auroc, metrics.aupr_in, metrics.aupr_out, metrics.fpr95):
        with pytest.raises(InvalidInput, match=f"ID scores.*{message}"):
            metric(scores, OOD)
        with pytest.raises(InvalidInput, match=f"OOD scores.*{message}"):
            metric(ID, scores)
