"""A test martingale over a stream of conformal p-values: capital won only if images change.

It bets that p-values become smaller. Of n calibration images, a new one of the same kind has a
p-value up to k / (n + 1) with probability k / (n + 1), on average over calibration sets; given the
images since then, c of N with such p-values, with probability (k + c) / (n + 1 + N), exactly: the
places of the new images among the calibration images are draws from Pólya's urn. Bets against these
conformal probabilities are fair whatever n. Bets against k / (n + 1) itself are not: a calibration
set that happens to be a little off would make them win for ever.

Each account bets on one level k / (n + 1) and one share of images changed: that a new image is
below the level with the probability of an unchanged one, or in that share of cases surely. Part of
the capital is invested when the first image comes and the rest bit by bit, so that a change is
found whenever it comes (the Sleeper/Stayer martingale of Vovk, Gammerman and Shafer, Algorithmic
Learning in a Random World, 2nd ed. 2022, algorithm 9.4, there with geometric investments). By
Ville's inequality the capital, 1 at the start, ever reaches c with probability at most 1 / c.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS: Floats = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
SHARES: Floats = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
FIRST = 100.0
"""Images over which about as much is invested as in each e-fold time later."""
LARGEST = 1e100
"""Capital an account holds at most: long past every alarm."""


def reserve(images: int) -> float:
    """Share of the capital not yet invested when so many images have come."""
    return 1 / (2 + math.log1p(images / FIRST))


def level_ranks(calibration_images: int) -> NDArray[np.int64]:
    """Of each level, the number k: a p-value is below it if it is up to k / (n + 1); ``[L]``."""
    return np.maximum(1, np.rint(LEVELS * (calibration_images + 1))).astype(np.int64)


def first_accounts(*streams: int) -> Floats:
    """The capital of every account at the start, ``[*streams, L, S]``."""
    accounts = np.empty((*streams, len(LEVELS), len(SHARES)))
    accounts[...] = (1 - reserve(0)) / (len(LEVELS) * len(SHARES))
    return accounts


def bet(
    accounts: Floats, chances: Floats, below: NDArray[np.bool_], images: int
) -> tuple[Floats, Any]:
    """The next image comes.

    Args:
        accounts: ``[..., L, S]`` capital before.
        chances: ``[..., L]`` conformal probability of a p-value below each level, in (0, 1).
        below: ``[..., L]`` whether it was.
        images: that came before.

    Returns:
        The accounts for the next image, and the capital now, ``[...]``.
    """
    won = 1 + SHARES * ((1 - chances) / chances)[..., None]
    accounts = np.minimum(accounts * np.where(below[..., None], won, 1 - SHARES), LARGEST)
    capital = reserve(images) + accounts.sum(axis=(-2, -1))
    invested = reserve(images) - reserve(images + 1)
    return accounts + invested / (len(LEVELS) * len(SHARES)), capital
