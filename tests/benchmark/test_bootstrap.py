"""The fast bootstrap against drawing the images one by one and asking the metrics."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from neroli import metrics
from neroli.benchmark.bootstrap import Resampled, Resamples, estimate
from neroli.errors import InvalidInput

CASES = np.random.default_rng(0)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(1)


def slowly(
    resamples: Resamples, inside: np.ndarray, outside: Mapping[str, np.ndarray]
) -> Resampled:
    """The same, one resample and one metric at a time."""

    def values(metric: metrics.Metric, name: str) -> np.ndarray:
        weights = zip(resamples.id_weights, resamples.ood_weights[name], strict=True)
        return np.array(
            [metric(np.repeat(inside, i), np.repeat(outside[name], o)) for i, o in weights]
        )

    return Resampled(
        {name: metrics.auroc(inside, each) for name, each in outside.items()},
        {name: metrics.fpr95(inside, each) for name, each in outside.items()},
        {name: values(metrics.auroc, name) for name in outside},
        {name: values(metrics.fpr95, name) for name in outside},
    )


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (CASES.normal(size=300), {"a": CASES.normal(1, size=70), "b": CASES.normal(3, size=500)}),
        (CASES.integers(0, 5, 101), {"ties": CASES.integers(2, 7, 90)}),
        (np.arange(21.0), {"at the quantile": np.array([18.0, 19.0, 20.0])}),
        (np.array([1.0]), {"lower": np.array([0.0]), "same": np.ones(1), "higher": np.ones(2) * 2}),
        (np.array([1.0, 2.0]), {"between": np.array([1.5])}),
        (np.zeros(30), {"constant": np.zeros(20), "all higher": np.ones(20)}),
        (np.ones(20), {"all lower": -CASES.random(9)}),
    ],
    ids=["continuous", "ties", "quantile", "one image", "two images", "constant", "below"],
)
def test_every_resample_is_what_the_metrics_say_of_its_images(
    inside: np.ndarray, outside: dict[str, np.ndarray]
) -> None:
    resamples = Resamples(
        len(inside), {name: len(each) for name, each in outside.items()}, resamples=40
    )
    fast, slow = resamples.evaluate(inside, outside), slowly(resamples, inside, outside)
    assert fast.auroc_value == slow.auroc_value and fast.fpr95_value == slow.fpr95_value
    for name in outside:
        np.testing.assert_allclose(fast.auroc[name], slow.auroc[name], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(fast.fpr95[name], slow.fpr95[name])


def test_more_resamples_than_are_summed_at_a_time_are_all_right(draw: np.random.Generator) -> None:
    inside, outside = draw.normal(size=50_000), {"a": draw.normal(1, size=60_000)}
    resamples = Resamples(50_000, {"a": 60_000}, resamples=5)  # two at a time
    fast, slow = resamples.evaluate(inside, outside), slowly(resamples, inside, outside)
    np.testing.assert_allclose(fast.auroc["a"], slow.auroc["a"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(fast.fpr95["a"], slow.fpr95["a"])


def test_images_are_drawn_with_replacement_each_as_likely_as_any() -> None:
    weights = Resamples(50, {"a": 20}, resamples=4000).id_weights
    assert (weights.sum(axis=1) == 50).all()
    # Binomial(50, 1/50): mean 1, variance 0.98; the mean of 4000 strays by 0.016.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 0.98, atol=0.15)


def test_resamples_repeat_with_the_seed_and_do_not_depend_on_the_other_sets() -> None:
    one = Resamples(30, {"a": 30, "b": 30}, resamples=10, seed=3)
    other = Resamples(30, {"c": 5, "b": 30}, resamples=10, seed=3)
    np.testing.assert_array_equal(one.id_weights, other.id_weights)
    np.testing.assert_array_equal(one.ood_weights["b"], other.ood_weights["b"])
    reseeded = Resamples(30, {"a": 30}, resamples=10, seed=4)
    drawn = [one.id_weights, *one.ood_weights.values(), reseeded.id_weights]
    drawn.append(reseeded.ood_weights["a"])
    for i, weights in enumerate(drawn):
        assert not any(np.array_equal(weights, each) for each in drawn[:i])


def test_detectors_that_order_images_alike_never_differ_in_any_resample(
    draw: np.random.Generator,
) -> None:
    resamples = Resamples(80, {"a": 60}, resamples=50)
    inside, outside = draw.normal(size=80), draw.normal(1, size=60)
    one = resamples.evaluate(inside, {"a": outside})
    same = resamples.evaluate(np.exp(inside), {"a": np.exp(outside)})
    np.testing.assert_array_equal(one.auroc["a"], same.auroc["a"])
    np.testing.assert_array_equal(one.fpr95["a"], same.fpr95["a"])


def test_differences_of_like_detectors_are_known_better_than_either(
    draw: np.random.Generator,
) -> None:
    resamples = Resamples(300, {"a": 300})
    inside, outside = draw.normal(size=300), draw.normal(1, size=300)
    noise = draw.normal(scale=0.1, size=300)
    one = resamples.evaluate(inside, {"a": outside}).auroc["a"]
    like = resamples.evaluate(inside + noise, {"a": outside + noise[::-1]}).auroc["a"]
    assert np.std(one - like) < np.std(one) / 3


def test_the_interval_holds_the_middle_95_percent() -> None:
    found = estimate(0.7, np.arange(101) / 100)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.025, 0.975))
    narrow = estimate(0.7, np.arange(101) / 100, level=0.5)
    assert (narrow.low, narrow.high) == pytest.approx((0.25, 0.75))


def test_intervals_cover_the_true_values_about_as_often_as_they_say(
    draw: np.random.Generator,
) -> None:
    auroc = 0.9213503964748574  # of two unit normals two apart
    fpr95 = 0.3612399686876647  # of these: the OOD one is below 1.645
    covered = np.zeros(2)
    for seed in range(200):
        drawn = Resamples(300, {"a": 200}, resamples=200, seed=seed)
        found = drawn.evaluate(draw.normal(size=300), {"a": draw.normal(2, size=200)})
        intervals = (
            estimate(found.auroc_value["a"], found.auroc["a"], level=0.8),
            estimate(found.fpr95_value["a"], found.fpr95["a"], level=0.8),
        )
        covered += [
            each.low <= truth <= each.high
            for each, truth in zip(intervals, (auroc, fpr95), strict=True)
        ]
    # 160 of 200 in the limit, give or take 6; the quantile of 300 images is biased a little.
    assert (covered > 138).all() and (covered < 182).all()


def test_tensors_and_lists_are_the_same_as_arrays() -> None:
    resamples = Resamples(4, {"a": 3}, resamples=20)
    inside, outside = [0.0, 1.0, 2.0, 3.0], [2.5, 2.0, 4.0]
    one = resamples.evaluate(inside, {"a": outside})
    other = resamples.evaluate(torch.tensor(inside), {"a": torch.tensor(outside)})
    np.testing.assert_array_equal(one.auroc["a"], other.auroc["a"])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "non-empty"),
        ([1.0, np.nan], "NaN"),
        ([1.0, np.inf], "infinity"),
        ([1.0], "1 images, resamples of 2"),
    ],
)
def test_unusable_scores_are_refused(scores: list[float], message: str) -> None:
    resamples = Resamples(2, {"a": 2}, resamples=5)
    with pytest.raises(InvalidInput, match=f"^ID scores.*{message}"):
        resamples.evaluate(scores, {"a": [1.0, 2.0]})
    with pytest.raises(InvalidInput, match=rf"^OOD \(a\) scores.*{message}"):
        resamples.evaluate([1.0, 2.0], {"a": scores})


def test_scores_of_other_sets_and_unusable_choices_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\['b'\], resamples of \['a'\]"):
        Resamples(2, {"a": 1}, resamples=5).evaluate([1.0, 2.0], {"b": [1.0]})
    with pytest.raises(InvalidInput, match="'a' has 0 images"):
        Resamples(2, {"a": 0})
    with pytest.raises(InvalidInput, match="'ID' has 0 images"):
        Resamples(0, {"ID": 1})
    with pytest.raises(InvalidInput, match="resamples must be at least 1, got 0"):
        Resamples(2, {"a": 1}, resamples=0)
    with pytest.raises(InvalidInput, match="seed must not be negative, got -1"):
        Resamples(2, {"a": 1}, seed=-1)
    with pytest.raises(InvalidInput, match="level must lie between 0 and 1, got 95"):
        estimate(0.5, np.array([0.5]), level=95)
