"""A CUSUM on the flagged share: images flagged more often than the calibration allows.

The sum of log-likelihood ratios of flagged with probability p1 against p0, kept at zero or above
(Page 1954). p1 is about twice p0, and such that the steps are whole numbers, m - 1 for a flagged
image and -1 for another (Reynolds and Stoumbos 1999): the sum is then a Markov chain on a few whole
numbers, whose rate of false alarms is computed, not simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Cusum:
    """How the sum moves, and where it alarms.

    Attributes:
        step: m; the sum rises while more than 1 in m images are flagged.
        limit: the sum at which there is an alarm.
    """

    step: int
    limit: int

    def after(self, value: int, flagged: bool) -> int:
        """The sum after one more image."""
        return max(0, value + (self.step if flagged else 0) - 1)


@lru_cache(maxsize=16)
def designed(share: float, rate: float, images: int) -> Cusum:
    """The CUSUM that seldom alarms while the flagged share is at most ``share``.

    Args:
        share: p0, in (0, 1). From about 0.4 on, no share can be told from it: there is no alarm.
        rate: probability of an alarm within any ``images`` images, at most, if there was none.
        images: of a run.
    """
    doubled = min(2 * share, (1 + share) / 2)
    down = math.log((1 - share) / (1 - doubled))
    up = math.log(doubled / share)
    step = math.floor((up + down) / down)
    if step == 1:
        return Cusum(1, 1)
    allowed = -math.expm1(math.log1p(-rate) / images)
    high = step
    while hazard(share, step, high) > allowed:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if hazard(share, step, middle) > allowed:
            low = middle
        else:
            high = middle
    return Cusum(step, high)


def hazard(share: float, step: int, limit: int) -> float:
    """Probability of an alarm at the next image after a long time without one.

    Earlier it is smaller, for the sum begins at zero. It is one less the largest eigenvalue of the
    chain on 0 ... limit - 1, found by inverse iteration.
    """
    from scipy import sparse  # takes a second to import
    from scipy.sparse.linalg import splu

    states = np.arange(limit)
    rises = states[states + step - 1 < limit]
    rows = np.concatenate([states, rises])
    columns = np.concatenate([np.maximum(states - 1, 0), rises + step - 1])
    values = np.concatenate([np.full(limit, 1 - share), np.full(len(rises), share)])
    chain = sparse.csc_matrix((values, (rows, columns)), shape=(limit, limit))
    solver = splu(sparse.identity(limit, format="csc") - chain)
    vector, found = np.full(limit, 1 / limit), 0.0
    for _ in range(200):
        vector = solver.solve(vector, trans="T")
        before, found = found, 1 / float(vector.sum())
        vector *= found
        if abs(found - before) <= 1e-9 * found:
            break
    return found
