"""What decisions say of the threshold: the estimate, and an interval that covers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from neroli.serve.decisions import Decisions


def test_the_estimate_by_hand() -> None:
    """1,000 scored, 100 flagged, 20 of them decided, 5 fine: 25 false alarms of 925 ID images."""
    found = Decisions("g", 1000, 100, flagged_fine=5, flagged_ood=15)
    assert found.false_alarm_rate == pytest.approx(25 / 925)
    low, high = found.interval
    assert low < 25 / 925 < high


def test_with_all_decided_the_interval_is_clopper_and_pearsons() -> None:
    found = Decisions("g", 1000, 80, flagged_fine=30, flagged_ood=50)
    exact = binomtest(30, 950).proportion_ci(0.95)
    assert found.interval == pytest.approx((exact.low, exact.high), rel=1e-9)


@pytest.mark.parametrize("reviewed", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("rate", "ood", "caught"), [(0.05, 0.2, 1.0), (0.02, 0.01, 1.0)])
def test_the_interval_covers_the_true_rate(
    reviewed: float, rate: float, ood: float, caught: float
) -> None:
    draw, covered, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        out = draw.binomial(1000, ood)
        alarms, hits = draw.binomial(1000 - out, rate), draw.binomial(out, caught)
        flagged = alarms + hits
        decided = round(reviewed * flagged)
        fine = draw.hypergeometric(alarms, hits, decided) if decided else 0
        low, high = Decisions("g", 1000, flagged, fine, decided - fine).interval
        covered += low <= rate <= high
    assert covered / runs >= 0.945


def test_missed_ood_images_lower_the_estimate_only_by_their_share() -> None:
    """200 of 1,000 OOD, half missed: 40 false alarms of 800, taken for 40 of 900."""
    found = Decisions("g", 1000, 140, flagged_fine=40, flagged_ood=100)
    assert found.false_alarm_rate == pytest.approx(40 / 900)


def test_what_is_known_without_decisions_or_flags() -> None:
    assert Decisions("", 0, 0).false_alarm_rate is None
    assert Decisions("", 0, 0).interval == (0, 1)
    assert Decisions("g", 100, 7).false_alarm_rate is None
    assert Decisions("g", 100, 7).interval == (0, 1)
    none_flagged = Decisions("g", 100, 0)
    assert none_flagged.false_alarm_rate == 0
    assert none_flagged.interval == pytest.approx((0, 1 - 0.025 ** (1 / 100)))
    assert Decisions("g", 5, 5, flagged_fine=5).interval[1] == 1


def test_the_promise_is_judged() -> None:
    assert "nothing is known" in Decisions("g", 100, 7).judged(0.05)
    broken = Decisions("g", 1000, 150, flagged_fine=140, flagged_ood=10).judged(0.05)
    assert broken.startswith("14.1% of ordinary") and "more than the 5.0% promised" in broken
    assert "with 95% confidence" in broken
    assert "within the 5.0%" in Decisions("g", 1000, 20, flagged_fine=20).judged(0.05)
    assert "still open" in Decisions("g", 100, 5, flagged_fine=5).judged(0.05)


def test_what_a_part_of_the_flagged_images_says_is_said_to_be_of_a_part() -> None:
    """The most unusual half of 40 was reviewed, all of it OOD; the other half may be fine."""
    half = Decisions("g", 460, 40, flagged_ood=20)
    assert "within the 5.0% promised" in half.judged(0.05)
    assert half.judged(0.05).endswith(half.caveat)
    assert "only if what was reviewed is like the other 20 flagged" in half.caveat
    assert Decisions("g", 460, 40, flagged_ood=39, flagged_fine=1).caveat == ""
    assert Decisions("g", 460, 40).caveat == ""
