"""Splitting images into training and calibration, so that no patient or procedure is in both."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from neroli.data.pictures import Pictures
from neroli.errors import InvalidInput, NotEnoughImages

Array = np.ndarray[Any, Any]


def split(pictures: Pictures, share: float = 0.2, seed: int = 0) -> tuple[Pictures, Pictures]:
    """Images for training and for calibration, with the classes in equal shares.

    All images of a group come on one side. Images without groups are split one by one.

    Args:
        pictures: images with labels, groups, both or neither.
        share: of the images that go to calibration, in 0..1; met as well as the groups allow.
        seed: another seed, another split; the same seed, the same.

    Returns:
        (training, calibration), each in the original order.

    Raises:
        InvalidInput: if ``share`` is out of range.
        NotEnoughImages: if there are too few groups, or images of a class, for two sides.
    """
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InvalidInput(f"share must be a number between 0 and 1, got {share!r}.")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidInput(f"seed must be an integer of 0 to {2**32 - 1}, got {seed!r}.")
    rows = np.arange(len(pictures))
    classes = np.array(pictures.labels or pictures.stated_labels or [0] * len(rows))
    if pictures.groups is not None:
        held_out = _held_out_groups(classes, np.array(pictures.groups), share, seed)
        sides = rows[~held_out], rows[held_out]
    else:
        try:
            sides = train_test_split(rows, test_size=share, random_state=seed, stratify=classes)
        except ValueError:
            names, counts = np.unique(classes, return_counts=True)
            raise NotEnoughImages(
                f"These {len(rows)} images of {len(names)} classes cannot be split so that every "
                f"class is on both sides, {share:.3g} of the images on one: the smallest class has "
                f"{counts.min()}. Give more images or another share."
            ) from None
    training, calibration = (pictures.subset(np.sort(side).tolist()) for side in sides)
    return training, calibration


def _held_out_groups(classes: Array, groups: Array, share: float, seed: int) -> Array:
    """Which images are of groups held out: bool ``[N]``.

    Groups are looked at in random order; one is held out if that brings the number of images held
    out of each class, as a share of the class, closer to what is wanted.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    kinds, class_of = np.unique(classes, return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (group_of, class_of), 1)
    total = counts.sum(0)
    taken = np.zeros(len(kinds))
    held_out = np.zeros(len(names), dtype=bool)
    for group in np.random.default_rng(seed).permutation(len(names)):
        more = taken + counts[group]
        if (more < total).all() and _distance(more, total, share) < _distance(taken, total, share):
            taken, held_out[group] = more, True
    if not held_out.any():
        raise NotEnoughImages(
            f"The {len(names)} groups of these {len(classes)} images are too few or too large to "
            f"hold out {share:.0%} of every class: give more groups or another share."
        )
    return np.asarray(held_out[group_of])


def _distance(taken: Array, total: Array, share: float) -> float:
    return float((((taken / total) - share) ** 2).sum())
