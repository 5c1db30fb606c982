"""Which detectors rank differently over several OOD sets: Friedman's test and Nemenyi's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from neroli.benchmark.results import CriticalDifference


def mean_ranks(auroc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean rank of each detector over the OOD sets, ``[detectors]``; 1 is best.

    Args:
        auroc: ``[detectors, sets]``; equal ones of a set share the mean of their ranks.
    """
    return np.asarray(_ranks(auroc).mean(axis=1))


def critical_difference(
    auroc: NDArray[np.float64], level: float = 0.05
) -> CriticalDifference | None:
    """By how much mean ranks must differ to be told apart; None of one set or one detector.

    Args:
        auroc: ``[detectors, sets]``.
        level: chance that any two detectors that are alike are told apart.

    Source: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006,
    sec. 3.2.2.
    """
    from scipy.stats import studentized_range

    detectors, sets = auroc.shape
    if detectors < 2 or sets < 2:
        return None
    quantile = float(studentized_range.ppf(1 - level, detectors, np.inf)) / math.sqrt(2)
    return CriticalDifference(
        distance=quantile * math.sqrt(detectors * (detectors + 1) / (6 * sets)),
        p_value=_friedman(_ranks(auroc)),
        sets=sets,
    )


def _ranks(auroc: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(-auroc, axis=0))


def _friedman(ranks: NDArray[np.float64]) -> float:
    """Friedman's p-value of ranks ``[detectors, sets]``, corrected for ties.

    SciPy's own refuses two detectors and gives NaN where all are tied.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed. 1999, sec. 5.8.
    """
    from scipy.stats import chi2

    detectors = len(ranks)
    off_centre = ranks - (detectors + 1) / 2
    spread = np.square(off_centre).sum()
    if spread == 0:
        return 1.0
    statistic = (detectors - 1) * np.square(off_centre.sum(axis=1)).sum() / spread
    return float(chi2.sf(statistic, detectors - 1))
