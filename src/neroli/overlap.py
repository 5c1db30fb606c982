"""What is in both training and calibration: no false-alarm rate can be promised on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from neroli.errors import CalibrationOverlap
from neroli.files import DIGEST_BYTES, as_bytes_array, digest

MAX_OVERLAP = 0.01
"""Largest share of calibration images that may also be training images (they are dropped)."""


def no_digests() -> Tensor:
    """Hashes of nothing, ``[0, 16]`` uint8."""
    return torch.empty(0, DIGEST_BYTES, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What a guard remembers of its training images: hashes by which it knows them again.

    Attributes:
        digests: of the images' contents, ``[N, 16]`` uint8.
        groups: of what they belong to (patients, say), ``[G, 16]`` uint8, salted with ``digests``
            so that guards of other images cannot be searched for a patient; empty if unknown.
    """

    digests: Tensor = field(default_factory=no_digests)
    groups: Tensor = field(default_factory=no_digests)

    @classmethod
    def of(cls, digests: Tensor, groups: Tensor | None) -> TrainingImages:
        """Of the hashes of every image and, if known, of the group of every image."""
        if groups is None:
            return cls(digests)
        return cls(digests, _salted(digests, groups))

    def held_out_rows(self, digests: Tensor, groups: Tensor | None = None) -> Tensor:
        """Which calibration images are not among these, nor copies of an earlier one.

        Args:
            digests: hashes of the calibration images' contents, ``[M, 16]`` uint8.
            groups: hashes of their groups, ``[M, 16]`` uint8, if known.

        Returns:
            bool ``[M]``.

        Raises:
            CalibrationOverlap: if more than 1 % are training images, or any group is in both.
        """
        if groups is not None and len(self.groups):
            shared = int(
                np.isin(digest_keys(_salted(self.digests, groups)), digest_keys(self.groups)).sum()
            )
            if shared:
                raise CalibrationOverlap(
                    f"{shared} of the {len(self.groups)} training groups (patients or procedures) "
                    "are also among the calibration images: split by group, for example with "
                    "`neroli split`."
                )
        rows = digest_keys(digests)
        seen = np.isin(rows, digest_keys(self.digests))
        if seen.sum() > MAX_OVERLAP * len(seen):
            raise CalibrationOverlap(
                f"{seen.sum()} of {len(seen)} calibration images are also training images, more "
                f"than {MAX_OVERLAP:.0%}: calibrate on images held out from training."
            )
        first = np.zeros_like(seen)
        first[np.unique(rows, return_index=True)[1]] = True
        return torch.from_numpy(first & ~seen)


def digest_keys(digests: Tensor) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    """Hashes, ``[N, 16]`` uint8, as one value each, ``[N]``, that NumPy compares and sorts."""
    return digests.contiguous().numpy().view(f"S{DIGEST_BYTES}")[:, 0]


def seeded_half(digests: Tensor, among: Tensor) -> Tensor:
    """Half of some images, drawn by their content, so that it does not depend on their order.

    Args:
        digests: hashes of the images' contents, ``[N, 16]`` uint8.
        among: which may be drawn, bool ``[N]``.

    Returns:
        bool ``[N]``.
    """
    keys = np.array([digest(b"half", row.tobytes()) for row in digests.numpy()], dtype="S16")
    rows = among.nonzero()[:, 0].numpy()
    drawn = rows[np.argsort(keys[rows], kind="stable")[: len(rows) // 2]]
    half = torch.zeros_like(among)
    half[torch.from_numpy(drawn)] = True
    return half


def unchecked(training: str, calibration: str, groups: bool, their_groups: bool) -> list[str]:
    """What cannot be checked of an overlap, a sentence each.

    Args:
        training: what the hashes of the training images are of.
        calibration: what those of the calibration images are of.
        groups: whether the groups of the training images are known.
        their_groups: whether those of the calibration images are.
    """
    doubts = []
    if calibration != training:
        doubts.append(
            f"Training images are known by a hash of the {training}, calibration images of the "
            f"{calibration}: images that are in both cannot be found and dropped."
        )
    if groups != their_groups:
        doubts.append(
            "Only one of training and calibration says which group (patient, procedure) an image "
            "belongs to: whether a group is in both cannot be checked."
        )
    return doubts


def _salted(salt: Tensor, groups: Tensor) -> Tensor:
    """The distinct groups, hashed once more together with a hash of the salt."""
    key = digest(as_bytes_array(salt).data)
    distinct = np.unique(digest_keys(groups))
    hashes = b"".join(digest(key, bytes(group).ljust(DIGEST_BYTES, b"\0")) for group in distinct)
    return torch.frombuffer(bytearray(hashes), dtype=torch.uint8).view(-1, DIGEST_BYTES)
