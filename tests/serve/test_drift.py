"""Drift: fair bets, stated false-alarm rates, changes found, and a state that survives restarts."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from neroli.calibration import Calibration, Promise
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.serve import martingale
from neroli.serve.cusum import Cusum, designed, hazard
from neroli.serve.drift import POINTS, RUN, Drift
from neroli.serve.martingale import LEVELS, SHARES, bet, first_accounts, level_ranks, reserve
from recorded import GUARD, opened, scored


def p_values_of(draw: np.random.Generator, count: int, n: int, power: float = 1.0) -> list[float]:
    """Of images that are unchanged (power 1) or more unusual, for an ideal calibration set."""
    return (np.ceil(draw.random(count) ** power * (n + 1)) / (n + 1)).tolist()


def test_every_bet_is_fair_at_the_conformal_probability() -> None:
    chances = np.random.default_rng(0).uniform(0.01, 0.9, len(LEVELS))
    start, expected = first_accounts(), np.zeros((len(LEVELS), len(SHARES)))
    for outcome, probability in ((True, chances), (False, 1 - chances)):
        after, _ = bet(start, chances, np.full(len(LEVELS), outcome), 0)
        expected += probability[:, None] * after
    put_in = (reserve(0) - reserve(1)) / start.size
    np.testing.assert_allclose(expected, start + put_in, rtol=1e-12)


def test_the_capital_is_one_until_something_is_won_or_lost() -> None:
    assert reserve(0) + first_accounts().sum() == pytest.approx(1)
    assert 0 < reserve(10**9) < reserve(10**6) < reserve(0)


def test_conformal_probabilities_are_those_of_all_orders_of_few_images() -> None:
    """Of 3 calibration and 2 new images in any order, the second is low after the first was."""
    from itertools import permutations

    k, n = 2, 3  # low: at most k - 1 of the n calibration scores are at least as high

    def low(score: int, calibration: tuple[int, ...]) -> bool:
        return sum(other >= score for other in calibration) <= k - 1

    orders = [(o[:n], o[n], o[n + 1]) for o in permutations(range(n + 2))]
    first = [o for o in orders if low(o[1], o[0])]
    both = [o for o in first if low(o[2], o[0])]
    assert Fraction(len(first), len(orders)) == Fraction(k, n + 1)
    assert Fraction(len(both), len(first)) == Fraction(k + 1, n + 1 + 1)


def naive_capitals(p_values: list[float], n: int) -> list[float]:
    """The martingale as its text says, an account at a time."""
    accounts = {
        (max(1, round(level * (n + 1))), place, share): (1 - reserve(0)) / 30
        for place, level in enumerate([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
        for share in (0.05, 0.1, 0.2, 0.4, 0.8)
    }
    capitals = []
    for images, p in enumerate(p_values):
        for (k, place, share), capital in accounts.items():
            below = sum(past * (n + 1) < k + 0.5 for past in p_values[:images])
            chance = (k + below) / (n + 1 + images)
            changed = share + (1 - share) * chance
            is_low = p * (n + 1) < k + 0.5
            accounts[k, place, share] = capital * (
                changed / chance if is_low else (1 - changed) / (1 - chance)
            )
        capitals.append(reserve(images) + sum(accounts.values()))
        for account in accounts:
            accounts[account] += (reserve(images) - reserve(images + 1)) / 30
    return capitals


def test_the_martingale_is_what_its_text_says() -> None:
    n, draw = 60, np.random.default_rng(1)
    p_values = p_values_of(draw, 40, n) + p_values_of(draw, 40, n, power=2)
    drift, capitals = Drift(n), []
    for p in p_values:
        drift.update([p], [False])
        capitals.append(drift.martingale)
    np.testing.assert_allclose(capitals, naive_capitals(p_values, n), rtol=1e-10)


def test_with_endless_calibration_images_it_is_the_sleeper_stayer_of_crepes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crepes = pytest.importorskip("crepes.martingales")
    monkeypatch.setattr(martingale, "reserve", lambda images: 0.99 ** (images + 1))
    n, draw = 10**12, np.random.default_rng(2)
    p_values = np.concatenate([draw.random(50), draw.random(50) ** 3])
    theirs = np.mean(
        [
            crepes.SleeperStayer(
                R=0.01,
                bf=crepes.StepBettingFunction(A=level, Gs=list(SHARES + (1 - SHARES) * level)),
            ).apply(p_values)
            for level in LEVELS
        ],
        axis=0,
    )
    ours, accounts = [], first_accounts()
    for images, p in enumerate(p_values):
        accounts, capital = bet(accounts, level_ranks(n) / (n + 1), p <= LEVELS, images)
        ours.append(capital)
    assert max(ours) > 100
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_bets_are_on_the_semi_online_p_values_of_crepes() -> None:
    """A p-value of crepes, of a score among all before it, is below a level as often as we bet."""
    crepes = pytest.importorskip("crepes.martingales")
    n, k, draw = 20, 5, np.random.default_rng(3)
    calibration = draw.random(n)
    new = draw.random(30)
    limit = np.sort(calibration)[-k]
    low = new > limit
    for images in range(len(new)):
        chance = (k + low[:images].sum()) / (n + 1 + images)
        # a new score just above the limit, after these, has the largest p-value that is low
        scores = [*calibration, *new[:images], np.nextafter(limit, 2)]
        largest = crepes.semi_online_p_values(scores, seed=0)[-1]
        scores[-1] = np.nextafter(limit, -1)
        smallest = crepes.semi_online_p_values(scores, seed=0)[-1]
        assert largest < chance < smallest


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [20, 100])
def test_the_martingale_alarms_as_seldom_as_stated_whatever_n(n: int, ties: bool) -> None:
    streams, images, rate = 2000, 400, 0.2
    draw = np.random.default_rng(n)
    scores = draw.random((streams, n + images))
    if ties:
        scores = np.maximum(np.round(scores, 1), 0.3)
    highest = -np.sort(-scores[:, :n], axis=1)[:, level_ranks(n) - 1]
    accounts, below = first_accounts(streams), np.zeros((streams, len(LEVELS)))
    alarmed = np.zeros(streams, bool)
    for t in range(images):
        low = scores[:, n + t, None] > highest
        accounts, capital = bet(accounts, (level_ranks(n) + below) / (n + 1 + t), low, t)
        alarmed |= capital >= 1 / rate
        below += low
    assert alarmed.mean() <= rate + 3 * (rate * (1 - rate) / streams) ** 0.5
    if not ties:
        assert alarmed.mean() > rate / 10  # and the bound is not idle


def test_the_cusum_counts_up_for_flagged_images_and_down_to_zero_for_others() -> None:
    chart, values = Cusum(step=4, limit=7), [0]
    for flagged in (False, True, False, True, True):
        values.append(chart.after(values[-1], flagged))
    assert values == [0, 0, 3, 2, 5, 8]


@pytest.mark.parametrize(("share", "step", "limit"), [(0.1, 6, 20), (0.3, 2, 5), (0.05, 13, 40)])
def test_the_rate_of_false_alarms_is_that_of_the_chain(share: float, step: int, limit: int) -> None:
    matrix = np.zeros((limit, limit))
    for state in range(limit):
        matrix[state, max(state - 1, 0)] += 1 - share
        if state + step - 1 < limit:
            matrix[state, state + step - 1] += share
    expected = 1 - np.abs(np.linalg.eigvals(matrix)).max()
    assert hazard(share, step, limit) == pytest.approx(expected, rel=1e-6)


def test_a_designed_cusum_keeps_its_rate_and_the_next_smaller_limit_does_not() -> None:
    share, rate, images, streams = 0.1, 0.1, 300, 4000
    chart = designed(share, rate, images)
    flagged = np.random.default_rng(4).random((streams, images)) < share
    values, alarmed = np.zeros(streams, int), np.zeros(streams, bool)
    for new in flagged.T:
        values = np.maximum(0, values + chart.step * new - 1)
        alarmed |= values >= chart.limit
    assert rate / 3 < alarmed.mean() <= rate + 0.01
    allowed = 1 - (1 - rate) ** (1 / images)
    assert hazard(share, chart.step, chart.limit) <= allowed
    assert hazard(share, chart.step, chart.limit - 1) > allowed


def test_no_cusum_watches_a_share_of_nearly_half() -> None:
    assert designed(0.45, 0.01, 100) == Cusum(1, 1)
    assert all(Cusum(1, 1).after(0, flagged) == 0 for flagged in (True, False))


def test_both_tests_together_alarm_as_seldom_as_stated_for_a_small_calibration_set() -> None:
    streams, images, rate = 80, 250, 0.2
    alarms = 0
    for stream in range(streams):
        draw = torch.Generator().manual_seed(stream)
        scores = torch.rand(50 + images, generator=draw)
        calibration = Calibration(scores[:50], torch.zeros(50).long(), 1)
        drift = Drift.of(calibration, rate)
        verdicts = calibration.verdicts(scores[50:], torch.zeros(images).long())
        drift.update(verdicts.p_value.tolist(), verdicts.is_ood.tolist())
        alarms += drift.alarm
    assert alarms / streams <= rate


@pytest.mark.parametrize("quiet", [0, 3000])
def test_changes_are_found_early_and_late(quiet: int) -> None:
    n, draw = 1000, np.random.default_rng(5)
    drift = Drift(n)
    drift.update(p_values_of(draw, quiet, n), (draw.random(quiet) < 0.05).tolist())
    assert not drift.alarm
    low = draw.random(500) < 0.4
    p_values = np.where(low, 0.02, p_values_of(draw, 500, n))
    drift.update(p_values.tolist(), low.tolist())
    assert set(drift.alarms) == {"martingale", "cusum"}
    assert all(quiet < at <= quiet + 150 for at in drift.alarms.values())
    drift.update(p_values_of(draw, 2000, n), [False] * 2000)
    assert drift.alarm  # it stays
    drift.reset()
    assert (drift.alarm, drift.images, drift.martingale, drift.cusum) == (False, 0, 1.0, 0)


def test_a_restart_changes_nothing() -> None:
    n, draw = 200, np.random.default_rng(6)
    p_values = p_values_of(draw, 1500, n) + p_values_of(draw, 200, n, power=1.5)
    flagged = [p < 0.04 for p in p_values]
    whole, restarted = Drift(n), Drift(n)
    whole.update(p_values, flagged)
    for start in range(0, len(p_values), 77):
        rows = slice(start, start + 77)
        restarted.update(p_values[rows], flagged[rows])
        restarted = Drift.from_dict(json.loads(json.dumps(restarted.to_dict(), allow_nan=False)))
    assert restarted.to_dict() == whole.to_dict()
    assert whole.images == len(p_values)


def test_a_state_that_cannot_be_read_is_refused() -> None:
    for state in ({}, {**Drift(100).to_dict(), "accounts": [1.0]}):
        with pytest.raises(InvalidInput, match="reset it"):
            Drift.from_dict(state)


def test_the_history_is_small_and_keeps_the_highest_values() -> None:
    n, draw = 100, np.random.default_rng(7)
    drift, capitals, sums = Drift(n), [], []
    for p in p_values_of(draw, 3210, n):
        drift.update([p], [p < 0.1])
        capitals.append(np.log10(drift.martingale))
        sums.append(drift.cusum)
    assert POINTS / 3 < len(drift.history) <= POINTS
    before = 0
    for number, capital, total in drift.history:
        assert capital == pytest.approx(max(capitals[before:number]))
        assert total == max(sums[before:number])
        before = number
    assert before > 3100


def test_it_follows_the_records_of_its_guard_once_each(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.add([scored(p_value=p, is_ood=p < 0.1) for p in (0.5, 0.02, 0.7)])
    records.add([scored(guard="f" * 16)])
    drift, expected = Drift(99), Drift(99)
    assert drift.follow(records, GUARD) == 3
    drift = Drift.from_dict(drift.to_dict())
    assert drift.follow(records, GUARD) == 0
    records.add([scored(p_value=0.3, is_ood=False)])
    assert drift.follow(records, GUARD) == 1
    expected.update([0.5, 0.02, 0.7, 0.3], [False, True, False, False])
    expected.row, expected.taken_at = 5, scored().at
    assert drift.to_dict() == expected.to_dict()


def test_of_images_that_come_together_or_again_it_takes_one(tmp_path: Path) -> None:
    records = opened(tmp_path)
    first = scored(at=100.0, p_value=0.5, is_ood=False)
    close = [scored(at=at) for at in (101.0, 109.9)]
    again = scored(at=120.0, content=first.content, p_value=0.5, is_ood=False)
    records.add([first, *close, again, scored(at=110.0, p_value=0.3, is_ood=False)])
    drift, expected = Drift(99, apart=10.0), Drift(99)
    assert drift.follow(records, GUARD) == 2
    expected.update([0.5, 0.3], [False, False])
    assert (drift.martingale, drift.cusum) == (expected.martingale, expected.cusum)
    assert Drift.from_dict(drift.to_dict()).to_dict() == drift.to_dict()


@pytest.mark.parametrize("apart", [0.0, 10.0])
def test_images_written_out_of_turn_or_after_the_clock_was_set_back_are_taken(
    tmp_path: Path, apart: float
) -> None:
    records = opened(tmp_path)
    times = [1000.0, 999.9, 999.8, 500.0, 500.1, 520.0]  # requests end in another order than begin
    records.add([scored(at=at, p_value=0.5, is_ood=False) for at in times])
    drift = Drift(99, apart=apart)
    assert drift.follow(records, GUARD) == (3 if apart else 6)
    assert drift.taken_at == 520.0


def test_with_thresholds_for_each_class_each_is_compared_with_its_own_images() -> None:
    draw = torch.Generator().manual_seed(8)
    predictions = torch.arange(3).repeat_interleave(torch.tensor([100, 60, 5]))
    calibration = Calibration(
        torch.rand(165, generator=draw), predictions, 3, Promise(0.05, per_class=True)
    )
    drift = Drift.of(calibration)
    assert drift.calibration_images == (100, 60)
    assert drift.groups == (0, 1, None)
    drift.update([0.5, 1 / 166], [False, True], predicted=[0, 2])
    alone = Drift([100, 60], groups=[0, 1], promise=calibration.promise)
    alone.update([0.5], [False], predicted=[0])
    assert (drift.martingale, drift.cusum) == (alone.martingale, alone.cusum)
    assert drift.images == 2
    with pytest.raises(InvalidInput, match="predicted classes"):
        drift.update([0.5], [False])


def test_few_calibration_images_are_doubted_with_the_figure() -> None:
    (doubt,) = Drift(50).doubts()
    assert "50 calibration images" in doubt and "11.3%" in doubt and "5.0% promised" in doubt
    assert Drift(1000).doubts() == []
    from scipy.stats import binom

    # with 11.3% truly flagged, the largest of 50 scores is the threshold with the odds stated
    share = Drift(50).flagged_share
    rank = Promise().rank(50)
    assert binom.cdf(50 - rank, 50, share) == pytest.approx(0.01 / 4, rel=1e-6)


def test_impossible_input_is_refused() -> None:
    drift = Drift(100)
    for call in (
        lambda: Drift(100, 0.0),
        lambda: Drift(100, apart=-1.0),
        lambda: drift.update([0.0], [False]),
        lambda: drift.update([float("nan")], [False]),
        lambda: drift.update([0.5, 0.5], [False]),
    ):
        with pytest.raises(InvalidInput):
            call()
    with pytest.raises(NotEnoughImages):
        Drift(10)
    assert drift.images == 0 and RUN == 10_000
