"""Images that are in both training and calibration: no false-alarm rate can be promised on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neroli.errors import CalibrationOverlap
from neroli.files import DIGEST_BYTES

MAX_OVERLAP = 0.01
"""Largest share of calibration images that may also be training images (they are dropped)."""


def held_out_rows(digests: Tensor, training: Tensor) -> Tensor:
    """Which calibration images are not among the training images, nor copies of an earlier one.

    Args:
        digests: hashes of the calibration images' contents, ``[N, 16]`` uint8.
        training: the same of the training images, ``[M, 16]``.

    Returns:
        bool ``[N]``.

    Raises:
        CalibrationOverlap: if more than 1 % are.
    """
    text = f"S{DIGEST_BYTES}"
    rows, known = (d.contiguous().numpy().view(text)[:, 0] for d in (digests, training))
    seen = np.isin(rows, known)
    if seen.sum() > MAX_OVERLAP * len(seen):
        raise CalibrationOverlap(
            f"{seen.sum()} of {len(seen)} calibration images are also training images, more than "
            f"{MAX_OVERLAP:.0%}: calibrate on images held out from training."
        )
    first = np.zeros_like(seen)
    first[np.unique(rows, return_index=True)[1]] = True
    return torch.from_numpy(first & ~seen)
