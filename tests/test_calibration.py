"""Thresholds against their promises: exact small cases, and simulated calibration sets."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from neroli.calibration import Calibration, Promise
from neroli.errors import InvalidInput, NotEnoughImages


def calibrated(scores: np.ndarray, promise: Promise) -> Calibration:
    return Calibration(torch.from_numpy(scores), torch.zeros(len(scores)).long(), 1, promise)


@pytest.mark.parametrize(
    ("rate", "guarantee", "needed"),
    [
        (0.05, "average", 19),
        (0.01, "average", 99),
        (0.05, "confidence", 45),
        (0.01, "confidence", 230),
    ],
)
def test_the_fewest_images_for_a_promise(rate: float, guarantee: str, needed: int) -> None:
    promise = Promise(rate, guarantee)  # type: ignore[arg-type]
    assert promise.images_needed == needed
    assert promise.rank(needed) == needed  # the threshold is then the highest score
    with pytest.raises(NotEnoughImages, match=f"at least {needed}.*got {needed - 1}"):
        promise.rank(needed - 1)


@pytest.mark.parametrize("count", [45, 60, 93, 500, 3000])
def test_confidence_rank_is_the_binomial_tolerance_bound(count: int) -> None:
    """The k-th smallest bounds the 95 % quantile with confidence P(Binomial(n, .95) < k)."""
    rank = Promise(0.05).rank(count)
    assert binom.cdf(rank - 1, count, 0.95) >= 0.9
    assert binom.cdf(rank - 2, count, 0.95) < 0.9


@pytest.mark.parametrize(("guarantee", "rate"), [("average", 0.1), ("confidence", 0.1)])
def test_the_promise_holds_over_simulated_calibration_sets(guarantee: str, rate: float) -> None:
    draw = np.random.default_rng(0)
    promise = Promise(rate, guarantee)  # type: ignore[arg-type]
    thresholds = [calibrated(draw.random(100), promise).threshold for _ in range(2000)]
    false_alarms = 1 - np.array(thresholds)  # of uniform scores, exactly
    if guarantee == "average":
        assert false_alarms.mean() <= rate + 0.002
        assert false_alarms.mean() >= rate - 0.012  # and is not wasteful
    else:
        assert 0.88 <= (false_alarms <= rate).mean() <= 0.97


def test_p_values_count_scores_at_least_as_high() -> None:
    calibration = calibrated(np.arange(19.0), Promise(0.05, "average"))
    p = calibration.p_values(torch.tensor([-1.0, 0.0, 17.5, 18.0, 99.0]), torch.zeros(5).long())
    assert p.tolist() == [20 / 20, 20 / 20, 2 / 20, 2 / 20, 1 / 20]


def test_average_verdict_is_p_at_most_the_rate() -> None:
    draw = np.random.default_rng(0)
    calibration = calibrated(draw.normal(size=333), Promise(0.07, "average"))
    scores, zeros = torch.from_numpy(draw.normal(size=2000)), torch.zeros(2000).long()
    flagged = calibration.is_ood(scores, zeros)
    assert torch.equal(flagged, calibration.p_values(scores, zeros) <= 0.07)
    assert torch.equal(flagged, scores > calibration.threshold)


def test_confident_threshold_is_higher() -> None:
    scores = np.random.default_rng(0).normal(size=400)
    confident = calibrated(scores, Promise(0.05)).threshold
    assert confident > calibrated(scores, Promise(0.05, "average")).threshold


def test_an_image_scored_like_the_threshold_is_not_flagged() -> None:
    calibration = calibrated(np.ones(50), Promise(0.05))
    assert not calibration.is_ood(torch.ones(1), torch.zeros(1).long()).item()


@pytest.mark.parametrize(("count", "alike", "doubtful"), [(500, 40, 40), (500, 3, 0), (50, 50, 50)])
def test_a_threshold_above_which_there_may_be_no_score_is_doubtful(
    count: int, alike: int, doubtful: int
) -> None:
    scores = np.linspace(0.0, 6.0, count)
    scores[count - alike :] = 6.0
    doubts = calibrated(scores, Promise(0.05)).doubts(None, None)
    assert [text.partition(" calibration")[0] for text in doubts] == [
        f"{doubtful} of {count}"
    ] * bool(doubtful)


def test_order_of_the_calibration_images_does_not_matter() -> None:
    draw = np.random.default_rng(0)
    scores, classes = torch.from_numpy(draw.normal(size=300)), torch.arange(300) % 3
    order = torch.from_numpy(draw.permutation(300))
    promise = Promise(0.1, per_class=True)
    one = Calibration(scores, classes, 3, promise)
    other = Calibration(scores[order], classes[order], 3, promise)
    assert torch.equal(one.thresholds, other.thresholds)


def test_classes_with_enough_images_have_their_own_threshold_and_p_values() -> None:
    draw = np.random.default_rng(0)
    sizes = (100, 30, 60)  # 45 are needed
    classes = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    scores = torch.from_numpy(draw.normal(size=190)) + 10 * classes
    calibration = Calibration(scores, classes, 3, Promise(0.05, per_class=True))
    assert calibration.own_classes == [0, 2]
    assert calibration.pooled_classes == [1]
    for c in (0, 2):
        alone = Calibration(scores[classes == c], torch.zeros(sizes[c]).long(), 1, Promise(0.05))
        assert calibration.thresholds[c] == alone.threshold
        mine = torch.tensor([10.0 * c + 1])
        expected = alone.p_values(mine, torch.tensor([0]))
        assert torch.equal(calibration.p_values(mine, torch.tensor([c])), expected)
    assert calibration.thresholds[1] == calibration.threshold
    one = torch.tensor([5.0])
    pooled = (1 + (scores >= 5.0).sum()) / 191
    assert calibration.p_values(one, torch.tensor([1])).item() == pytest.approx(pooled.item())


@pytest.mark.parametrize(
    "settings",
    [
        {"false_alarm_rate": 0.0},
        {"false_alarm_rate": 5.0},
        {"confidence": 1.0},
        {"guarantee": "certain"},
    ],
)
def test_impossible_promises_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        Promise(**settings)  # type: ignore[arg-type]


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        calibrated(np.full(60, np.nan), Promise())
