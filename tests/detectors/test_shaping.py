"""ReAct, DICE, ASH and SCALE, written out naively, and features they were not made for."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from neroli import Activations, LinearHead
from neroli.detectors import ASHB, ASHP, ASHS, DICE, SCALE, Detector, Energy, ReAct
from neroli.errors import InvalidInput, NotFitted

SHAPING = [ASHP, ASHB, ASHS, SCALE]


def energy(features: np.ndarray, head: LinearHead) -> np.ndarray:
    return -logsumexp(features @ head.weight.numpy().T + head.bias.numpy(), axis=1)


def shaped(kind: type[Detector], row: np.ndarray, percentile: float) -> np.ndarray:
    """One image's features as the paper's listing shapes them, by sorting."""
    kept = np.argsort(-row, kind="stable")[: len(row) - round(len(row) * percentile / 100)]
    out = np.zeros_like(row)
    out[kept] = row[kept]
    s1, s2 = row.sum(), out.sum()
    if kind is ASHB:
        out[kept] = s1 / len(kept)
    elif kind is ASHS:
        out *= np.exp(s1 / s2)
    elif kind is SCALE:
        out = row * np.exp(s1 / s2)
    return out


@pytest.mark.parametrize("kind", SHAPING)
@pytest.mark.parametrize("percentile", [10.0, 35.0, 65.0, 90.0])
def test_shaping_equals_the_listing(
    training: Activations,
    new: Activations,
    head: LinearHead,
    kind: type[Detector],
    percentile: float,
) -> None:
    detector = kind(percentile=percentile).fit(training, head)  # type: ignore[call-arg]
    rows = np.stack([shaped(kind, row, percentile) for row in new.features.numpy()])
    np.testing.assert_allclose(detector.score(new), energy(rows, head), rtol=1e-12)


def test_ash_of_four_activations_by_hand() -> None:
    head = LinearHead(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]).double())
    row = torch.tensor([[4.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
    batch = Activations.from_features(row, head)
    factor = np.exp(8 / 7)
    for kind, expected in {
        ASHP: [4, 0, 3],
        ASHB: [4, 0, 4],
        ASHS: [4 * factor, 0, 3 * factor],
        SCALE: [4 * factor, factor, 3 * factor],
    }.items():
        score = kind(percentile=50.0).fit(batch, head).score(batch)
        assert score.item() == pytest.approx(-logsumexp(expected))


@pytest.mark.parametrize("kind", SHAPING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:.*made for features behind a ReLU")
def test_shaping_of_degenerate_features_is_finite(
    head: LinearHead, kind: type[Detector], dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.stack(
        [
            torch.zeros(24),
            torch.ones(24),
            -torch.ones(24),
            torch.randn(24, generator=draw),
            torch.randn(24, generator=draw) - 1.5,
            torch.eye(24)[3] * 1e-30,
        ]
    ).to(dtype)
    batch = Activations.from_features(rows, head)
    for percentile in (90.0, 99.9):  # the latter would keep none
        detector = kind(percentile=percentile).fit(batch, head)  # type: ignore[call-arg]
        scores = detector.score(batch)
        assert torch.isfinite(scores).all()
        assert scores[0].item() == pytest.approx(Energy().score(batch)[0].item())


def test_scaling_stays_finite_where_few_of_many_neurons_are_kept() -> None:
    head = LinearHead(torch.ones(2, 4000))
    batch = Activations.from_features(torch.ones(1, 4000), head)
    assert ASHS(99.9).fit(batch, head).score(batch).item() < -1e20


def test_of_equal_activations_the_first_are_kept(head: LinearHead) -> None:
    """ASH-B gives every kept neuron the same value, so it matters which."""
    row = torch.zeros(1, 24, dtype=torch.float64)
    row[0, 20] = 6.0
    batch = Activations.from_features(row, head)
    features = np.zeros((1, 24))
    features[0, [20, 0, 1]] = 2.0
    score = ASHB(87.5).fit(batch, head).score(batch)
    np.testing.assert_allclose(score, energy(features, head), rtol=1e-12)


def test_react_learns_the_percentile(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    react = ReAct(70.0).fit(training, head)
    exact = np.percentile(training.features.numpy(), 70)
    assert react.threshold.item() == pytest.approx(exact, rel=1e-3)
    given = ReAct(clip=exact).fit(training, head)
    expected = energy(np.minimum(new.features.numpy(), exact), head)
    np.testing.assert_allclose(given.score(new), expected, rtol=1e-12)
    np.testing.assert_allclose(react.score(new), expected, rtol=1e-3)


def test_dice_keeps_the_weights_with_the_largest_signed_contributions(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    weight, bias = head.weight.numpy(), head.bias.numpy()
    contribution = weight * training.features.numpy().mean(axis=0)
    cut = np.percentile(contribution, 80)
    expected = [
        -logsumexp(
            [
                (w * row)[v > cut].sum() + b
                for w, v, b in zip(weight, contribution, bias, strict=True)
            ]
        )
        for row in new.features.numpy()
    ]
    for dice in (DICE(80.0), DICE(threshold=float(cut))):
        np.testing.assert_allclose(dice.fit(training, head).score(new), expected, rtol=1e-12)
    nothing = DICE(100.0).fit(training, head)
    np.testing.assert_allclose(nothing.score(new), np.full(90, -logsumexp(bias)), rtol=1e-12)


def test_what_only_needs_the_head_must_be_fitted_too(new: Activations) -> None:
    for kind in SHAPING:
        with pytest.raises(NotFitted):
            kind().score(new)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ReAct, {"percentile": 101.0}),
        (ReAct, {"clip": 0.0}),
        (DICE, {"percentile": -1.0}),
        (DICE, {"threshold": float("nan")}),
        (ASHS, {"percentile": 100.0}),
        (SCALE, {"percentile": 0.0}),
    ],
)
def test_impossible_settings_are_refused(kind: type[Detector], settings: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        kind(**settings)
