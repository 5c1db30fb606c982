"""Statistics against NumPy, and that no split or order of the data changes them."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.histograms import BinCounts, row_counts
from neroli.moments import ClassMeans, ClassMoments, Covariance, LogSumExp
from neroli.relevance import HeadRelevance
from neroli.statistics import (
    ConfusionCounts,
    Extrema,
    Mean,
    Quantiles,
    Range,
    Reservoir,
    SampledMean,
    Statistic,
    sampled,
)
from neroli.tails import ClassLargest

_DRAW = torch.Generator().manual_seed(5)
HEAD = LinearHead(torch.randn(3, 6, generator=_DRAW), torch.randn(3, generator=_DRAW))
DATA = random_activations(HEAD, 60)
RELEVANCE = HeadRelevance(HEAD)


def feature_sum(batch: Activations) -> torch.Tensor:
    return batch.features.sum(dim=1)


REQUESTS: dict[str, Callable[[], Statistic[Any]]] = {
    "mean": lambda: Mean(RELEVANCE),
    "mean of a sample": lambda: SampledMean(RELEVANCE, share=0.4),
    "extrema": lambda: Extrema("logits"),
    "quantiles": lambda: Quantiles("features", Range(0.0, 8.0), (0.1, 0.5, 0.95)),
    "covariance": lambda: Covariance("features"),
    "class moments": lambda: ClassMoments(RELEVANCE),
    "predicted class moments": lambda: ClassMoments("features", "predicted"),
    "class means": lambda: ClassMeans(RELEVANCE),
    "correct class means": lambda: ClassMeans("features", "correct"),
    "log-sum-exp": lambda: LogSumExp("logits"),
    "bin counts": lambda: BinCounts("features", (0.0, 0.5, 2.0)),
    "confusion": ConfusionCounts,
    "class largest": lambda: ClassLargest(feature_sum, 4),
    "correct class largest": lambda: ClassLargest(feature_sum, 30, "correct"),
    "reservoir": lambda: Reservoir("features", 13, seed=4),
}


def values(result: Any) -> list[torch.Tensor]:
    fields = vars(result).values() if hasattr(result, "__dict__") else [result]
    return [torch.as_tensor(value, dtype=torch.float64) for value in fields]


def in_one_stream(request: Callable[[], Statistic[Any]]) -> Any:
    statistic = request()
    statistic.update(DATA)
    return statistic.finalize()


@pytest.mark.parametrize("name", REQUESTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_merge_of_any_split_in_any_order_equals_one_stream(name: str, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(DATA))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(DATA)), max_size=6)))
    shards = data.draw(st.integers(1, 4))
    accumulators = [REQUESTS[name]() for _ in range(shards)]  # some may stay empty
    for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(DATA)], strict=True)):
        if start < end:
            rows = order[start:end]
            part = Activations(
                DATA.features[rows],
                DATA.logits[rows],
                DATA.labels[rows],  # type: ignore[index]
                [DATA.ids[row] for row in rows],  # type: ignore[index]
            )
            accumulators[index % shards].update(part)
    merged = pickle.loads(pickle.dumps(accumulators[-1]))
    for other in accumulators[:-1]:
        merged.merge(other)
    expected = in_one_stream(REQUESTS[name])
    for got, want in zip(values(merged.finalize()), values(expected), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", REQUESTS)
def test_equal_requests_are_equal_whatever_they_gathered(name: str) -> None:
    one, other = REQUESTS[name](), REQUESTS[name]()
    one.update(DATA)
    assert one == other
    assert all(one != REQUESTS[n]() for n in REQUESTS if n != name)


@pytest.mark.parametrize("name", REQUESTS)
def test_nothing_gathered_is_an_error(name: str) -> None:
    with pytest.raises(NotEnoughImages, match="no training images"):
        REQUESTS[name]().finalize()


def test_class_moments_and_covariance_equal_numpy() -> None:
    features = DATA.features.numpy()
    moments = in_one_stream(lambda: ClassMoments("features"))
    means = in_one_stream(lambda: ClassMeans("features"))
    gaussian = in_one_stream(lambda: Covariance("features"))
    assert DATA.labels is not None
    for c in range(3):
        rows = features[DATA.labels.numpy() == c]
        assert moments.count[c] == len(rows)
        np.testing.assert_allclose(moments.mean[c], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(means.mean[c], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance[c], rows.var(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, np.cov(features.T, ddof=0), rtol=1e-10)


def test_confusion_equals_scikit_learn() -> None:
    confusion = in_one_stream(ConfusionCounts)
    dense = torch.zeros(3, 3, dtype=torch.int64)
    dense[confusion.label, confusion.predicted] = confusion.count
    expected = confusion_matrix(DATA.labels, DATA.predictions, labels=range(3))
    np.testing.assert_array_equal(dense, expected)


def test_class_largest_equal_sorting_every_class() -> None:
    assert DATA.labels is not None
    for labels, counted in (
        ("true", DATA.labels),
        ("predicted", DATA.predictions),
        ("correct", DATA.labels.where(DATA.labels == DATA.predictions, -1)),
    ):
        largest = in_one_stream(lambda labels=labels: ClassLargest(feature_sum, 22, labels))
        for c in range(3):
            rows = feature_sum(DATA)[counted == c].sort(descending=True).values[:22]
            assert torch.equal(largest[c, : len(rows)], rows)
            assert (largest[c, len(rows) :] == -torch.inf).all()
    with pytest.raises(InvalidInput, match="size=0"):
        ClassLargest(feature_sum, 0)


def test_quantiles_equal_numpy_to_a_bin_width() -> None:
    extremes = in_one_stream(lambda: Extrema("logits"))
    levels = (0.0, 0.2, 0.5, 0.95, 1.0)
    quantiles = in_one_stream(lambda: Quantiles("logits", extremes, levels))
    expected = np.quantile(DATA.logits.numpy(), levels, method="inverted_cdf")
    assert (extremes.low, extremes.high) == (expected[0], expected[-1])
    width = (extremes.high - extremes.low) / 2**18
    np.testing.assert_allclose(quantiles, expected, atol=2 * width)


def test_quantiles_of_a_constant() -> None:
    constant = Activations(torch.full((4, 2), 3.0), torch.zeros(4, 2))
    statistic = Quantiles("features", Range(3.0, 3.0), (0.05, 0.95))
    statistic.update(constant)
    assert statistic.finalize().tolist() == [3.0, 3.0]


def test_covariance_survives_a_large_offset() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(5000, 3)) + 1e6
    statistic = Covariance("features")
    for part in np.split(rows, 50):
        statistic.update(Activations(torch.from_numpy(part), torch.zeros(len(part), 2).double()))
    np.testing.assert_allclose(
        statistic.finalize().covariance, np.cov(rows.T, ddof=0), rtol=1e-6, atol=1e-6
    )


def test_reservoir_is_a_uniform_sample_that_depends_on_the_seed() -> None:
    features = torch.arange(2000, dtype=torch.float64)[:, None]
    batch = Activations(features, torch.zeros(2000, 2).double(), ids=[str(i) for i in range(2000)])

    def sample(seed: int) -> torch.Tensor:
        reservoir = Reservoir("features", 500, seed)
        reservoir.update(batch)
        return reservoir.finalize()[:, 0]

    assert abs(float(sample(0).mean()) - 999.5) < 5 * 2000 / (12 * 500) ** 0.5
    assert len(set(sample(0).tolist()) & set(sample(1).tolist())) < 250
    with pytest.raises(InvalidInput, match="size=0"):
        Reservoir("features", 0)


def test_an_empty_class_is_named() -> None:
    statistic = ClassMoments("features")
    some = DATA[:2]  # labels 0 and 1
    statistic.update(some)
    with pytest.raises(NotEnoughImages, match="Class 2 has no training image"):
        statistic.finalize()


def test_log_sum_exp_neither_overflows_nor_drops_minus_infinity() -> None:
    logits = torch.tensor([[1e4, -torch.inf], [1e4, -torch.inf], [-1e4, -torch.inf]]).double()
    statistic = LogSumExp("logits")
    for row in logits:
        statistic.update(Activations(torch.ones(1, 2).double(), row[None]))
    assert statistic.finalize().tolist() == [pytest.approx(1e4 + np.log(2)), -np.inf]


def test_bin_counts_are_of_half_open_bins() -> None:
    features = torch.tensor([[0.0, 1.0], [0.5, 3.0], [-1.0, 0.99], [0.2, 2.0]])
    statistic = BinCounts("features", (0.0, 0.5, 1.0, 3.0))
    statistic.update(Activations(features, torch.zeros(4, 2)))
    assert statistic.finalize().tolist() == [[2, 1, 0], [0, 1, 2]]
    with pytest.raises(InvalidInput, match="edges"):
        BinCounts("features", (0.0, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_counts_equal_numpy_and_count_the_extremes(dtype: torch.dtype) -> None:
    values = torch.cat([DATA.features, torch.full((60, 1), 20.0), -DATA.features[:, :1] - 1], 1)
    found = Range(0.0, float(DATA.features.to(dtype).max()))
    counts = row_counts(values.to(dtype), found, 7)
    for row, expected in zip(counts, values.to(dtype).numpy(), strict=True):
        np.testing.assert_array_equal(row, np.histogram(expected, 7, (0.0, found.high))[0])


def test_row_counts_of_a_constant() -> None:
    counts = row_counts(torch.full((2, 3), 7e9), Range(7e9, 7e9), 4)
    assert counts.sum(dim=1).tolist() == [3, 3]


def test_a_sampled_mean_is_the_mean_over_a_share_of_the_images_that_is_drawn_by_their_ids() -> None:
    many = random_activations(HEAD, 4000)
    few = sampled(many, 0.25)
    assert len(few) == pytest.approx(1000, abs=4 * (4000 * 0.25 * 0.75) ** 0.5)
    assert set(sampled(many.select(torch.arange(len(many)).flip(0)), 0.25).ids or ()) == set(
        few.ids or ()
    )
    statistic = SampledMean("features", share=0.25)
    statistic.update(many)
    torch.testing.assert_close(statistic.finalize(), few.features.mean(dim=0))
    everything = SampledMean("features")
    everything.update(many)
    torch.testing.assert_close(everything.finalize(), many.features.mean(dim=0))


def test_a_sample_without_any_image_has_no_mean() -> None:
    statistic = SampledMean("features", share=0.0)
    statistic.update(DATA)
    with pytest.raises(NotEnoughImages, match="no training images"):
        statistic.finalize()
