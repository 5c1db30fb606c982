"""Bootstrap of AUROC and FPR95: the same resamples for every detector, so that they are paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neroli import metrics
from neroli.benchmark.results import Estimate
from neroli.errors import InvalidInput

_CHUNK = 1 << 17
"""Weights summed at a time, 1 MiB as float64: what stays in a processor's cache is fastest."""


@dataclass(frozen=True, eq=False)
class Resampled:
    """How well one detector tells each OOD set from the ID images; all are fractions.

    Attributes:
        auroc_value: by OOD set, of all images: :func:`neroli.metrics.auroc`.
        fpr95_value: by OOD set, of all images: :func:`neroli.metrics.fpr95`.
        auroc: by OOD set, of every resample, ``[R]``.
        fpr95: by OOD set, of every resample, ``[R]``.
    """

    auroc_value: dict[str, float]
    fpr95_value: dict[str, float]
    auroc: dict[str, NDArray[np.float64]]
    fpr95: dict[str, NDArray[np.float64]]


class Resamples:
    """Bootstrap resamples of ID and OOD images, drawn once for all detectors.

    Resample r of the ID images is the same for every detector and every OOD set; that of an OOD
    set is the same for every detector, and depends on nothing but the seed and the set's name and
    number of images. Holds one byte a resample and image.

    Args:
        id_count: number of ID images.
        ood_counts: number of images by OOD set.
        resamples: how many to draw, R.
        seed: of the drawing; the same seed gives the same resamples.

    Attributes:
        id_weights: how often each ID image is in each resample, ``[R, N]`` uint8.
        ood_weights: the same by OOD set, ``[R, M]`` uint8 each.

    Raises:
        InvalidInput: if a set has no images, there are no resamples, or the seed is negative.
    """

    def __init__(
        self, id_count: int, ood_counts: Mapping[str, int], *, resamples: int = 1000, seed: int = 0
    ) -> None:
        for name, count in [("ID", id_count), *ood_counts.items()]:
            if count < 1:
                raise InvalidInput(f"{name!r} has {count} images to resample: give at least 1.")
        if resamples < 1:
            raise InvalidInput(f"resamples must be at least 1, got {resamples}.")
        if seed < 0:
            raise InvalidInput(f"seed must not be negative, got {seed}.")
        self.id_weights = _weights(id_count, resamples, [seed, 0])
        self.ood_weights = {
            name: _weights(count, resamples, [seed, 1, *name.encode()])
            for name, count in ood_counts.items()
        }

    def evaluate(self, id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike]) -> Resampled:
        """One detector's AUROC and FPR95 on every OOD set, in every resample.

        Args:
            id_scores: ``[N]``, higher = more OOD, in the same order for every detector.
            ood_scores: ``[M]`` by OOD set, likewise.

        Raises:
            InvalidInput: for other sets or numbers of images than were resampled, and for scores
                that no metric takes.
        """
        inside, outside = self._checked(id_scores, ood_scores)
        order = np.argsort(inside)
        ranked = inside[order]
        # How many of the ID images, in ascending order, score lower, and lower or the same.
        lower = {name: np.searchsorted(ranked, each, "left") for name, each in outside.items()}
        upto = {name: np.searchsorted(ranked, each, "right") for name, each in outside.items()}
        # Where metrics.fpr95 finds its threshold among N scores in ascending order.
        quantile = int(np.quantile(np.arange(len(ranked)), 0.95, method="higher"))

        resamples = len(self.id_weights)
        auroc = {name: np.empty(resamples) for name in outside}
        fpr95 = {name: np.empty(resamples) for name in outside}
        step = max(1, _CHUNK // max(map(len, [ranked, *outside.values()])))
        for start in range(0, resamples, step):
            chunk = slice(start, start + step)
            weights = self.id_weights[chunk, order]
            # below[r, i]: images of resample r among the i lowest; float64 holds them exactly.
            below = np.zeros((len(weights), len(ranked) + 1))
            np.cumsum(weights, axis=1, out=below[:, 1:])
            threshold = np.array([np.searchsorted(row[1:], quantile, "right") for row in below])
            for name, drawn in self.ood_weights.items():
                ood = drawn[chunk]
                pairs = len(ranked) * ood.shape[1]
                twice = below.take(lower[name], axis=1)
                twice += below.take(upto[name], axis=1)  # ties count half
                wins = np.einsum("rj,rj->r", twice, ood.astype(np.float64))
                auroc[name][chunk] = wins / (2 * pairs)
                accepted = lower[name] <= threshold[:, None]
                shares = np.einsum("rj,rj->r", ood, accepted, dtype=np.int32) / ood.shape[1]
                fpr95[name][chunk] = shares
        return Resampled(
            {name: metrics.auroc(inside, each) for name, each in outside.items()},
            {name: metrics.fpr95(inside, each) for name, each in outside.items()},
            auroc,
            fpr95,
        )

    def _checked(
        self, id_scores: ArrayLike, ood_scores: Mapping[str, ArrayLike]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        if ood_scores.keys() != self.ood_weights.keys():
            raise InvalidInput(
                f"Scores are of the OOD sets {sorted(ood_scores)}, resamples of "
                f"{sorted(self.ood_weights)}: give scores of all of these and no others."
            )
        inside = _scores_of("ID", id_scores, self.id_weights)
        return inside, {
            name: _scores_of(f"OOD ({name})", ood_scores[name], weights)
            for name, weights in self.ood_weights.items()
        }


def estimate(value: float, resampled: NDArray[np.float64], level: float = 0.95) -> Estimate:
    """A value with its percentile interval.

    Args:
        value: of all images.
        resampled: the same in every resample, ``[R]``; of several sets or a difference between
            detectors, the mean or difference resample by resample.
        level: confidence level in 0..1.

    Raises:
        InvalidInput: if ``level`` is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    low, high = np.quantile(resampled, metrics.interval_levels(level))
    return Estimate(value=value, low=float(low), high=float(high))


def _weights(count: int, resamples: int, seed: list[int]) -> NDArray[np.uint8]:
    """How often each image is in each resample; more than 255 times is out of the question."""
    draw = np.random.default_rng(seed)
    weights = np.empty((resamples, count), np.uint8)
    for row in weights:
        row[:] = np.bincount(draw.integers(0, count, count), minlength=count)
    return weights


def _scores_of(kind: str, scores: ArrayLike, weights: NDArray[np.uint8]) -> NDArray[np.float64]:
    checked = metrics.checked_scores(kind, scores)
    if len(checked) != weights.shape[1]:
        raise InvalidInput(
            f"{kind} scores are of {len(checked)} images, resamples of {weights.shape[1]}: score "
            "the images that were counted."
        )
    return checked
