"""How well scores tell in-distribution (ID) from out-of-distribution (OOD) images.

Every metric takes the scores of known ID and of known OOD images, ``[N]`` and ``[M]``, higher =
more OOD, as arrays or tensors, and returns a fraction in 0..1. All raise InvalidInput for
scores that are empty, not one-dimensional or not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neroli.errors import InvalidInput

Metric = Callable[[Any, Any], float]


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an OOD image scores higher than an ID image."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(id_scores, ood_scores)))


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the precision-recall curve (average precision) with OOD as the positive class."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_labelled(id_scores, ood_scores)))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the precision-recall curve (average precision) with ID as the positive class."""
    from sklearn.metrics import average_precision_score

    is_ood, scores = _labelled(id_scores, ood_scores)
    return float(average_precision_score(1 - is_ood, -scores))


def fpr95(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Share of OOD images accepted when 95 % of the ID images are; lower is better."""
    threshold = np.quantile(checked_scores("ID", id_scores), 0.95, method="higher")
    return float((checked_scores("OOD", ood_scores) <= threshold).mean())


@dataclass(frozen=True)
class Interval:
    """A metric's value and its bootstrap confidence interval."""

    value: float
    low: float
    high: float


def interval(
    metric: Metric,
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a metric, ID and OOD images resampled apart.

    Args:
        metric: ``auroc`` or any other function of ID and OOD scores.
        id_scores: ``[N]``.
        ood_scores: ``[M]``.
        level: confidence level in 0..1.
        resamples: number of bootstrap resamples.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        InvalidInput: as every metric does, or if ``level`` or ``resamples`` is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    quantiles = interval_levels(level)
    if resamples < 1:
        raise InvalidInput(f"resamples must be at least 1, got {resamples}.")
    inside, outside = checked_scores("ID", id_scores), checked_scores("OOD", ood_scores)
    draw = np.random.default_rng(seed)
    values = [
        metric(draw.choice(inside, len(inside)), draw.choice(outside, len(outside)))
        for _ in range(resamples)
    ]
    low, high = np.quantile(values, quantiles)
    return Interval(metric(inside, outside), float(low), float(high))


def interval_levels(level: float) -> tuple[float, float]:
    """The two quantiles between which an interval of a confidence level lies.

    Raises:
        InvalidInput: if ``level`` does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level must lie between 0 and 1, got {level}.")
    return (1 - level) / 2, (1 + level) / 2


def checked_scores(kind: str, scores: Any) -> NDArray[np.float64]:
    """Scores as the metrics take them, ``[N]`` float64.

    Args:
        kind: what the scores are of, for the message.
        scores: ``[N]``, an array or a tensor.

    Raises:
        InvalidInput: for scores that are empty, not one-dimensional or not finite.
    """
    array = scores.detach().cpu().numpy() if hasattr(scores, "detach") else np.asarray(scores)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput(f"{kind} scores must be a non-empty [N], got shape {list(array.shape)}.")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InvalidInput(f"{kind} scores hold NaN, infinity or something other than numbers.")
    return array.astype(np.float64)


def _labelled(id_scores: ArrayLike, ood_scores: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    inside, outside = checked_scores("ID", id_scores), checked_scores("OOD", ood_scores)
    is_ood = np.repeat([0, 1], [len(inside), len(outside)])
    return is_ood, np.concatenate([inside, outside])
