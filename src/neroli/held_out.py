"""Held-out images: which count, what some of them teach a detector, and the scores of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neroli.activations import Rows
from neroli.calibration import Promise
from neroli.detectors import Detector
from neroli.fitting import fit_held_out
from neroli.head import LinearHead
from neroli.overlap import TrainingImages, seeded_half
from neroli.store import ActivationStore


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Calibration images, and what is done with each.

    Attributes:
        activations: of all.
        fresh: those that the threshold comes from, bool ``[M]``.
        taught: those that the detector learns from, bool ``[M]``; None if it learns from none.
        dropped: how many are training images, or copies of another.
    """

    activations: ActivationStore
    fresh: Tensor
    taught: Tensor | None
    dropped: int

    @classmethod
    def of(
        cls, activations: ActivationStore, known: TrainingImages, promise: Promise, learns: bool
    ) -> HeldOut:
        """Of a store.

        Args:
            activations: of the calibration images.
            known: the training images.
            promise: what the threshold is to keep.
            learns: whether the detector learns from held-out images too, from half of them.

        Raises:
            NotEnoughImages: if there are too few images for the promise, or those that the detector
                does not learn from are.
            CalibrationOverlap: as ``TrainingImages.held_out_rows``.
        """
        digests = activations.digests()
        fresh = known.held_out_rows(digests, activations.groups())
        dropped = int((~fresh).sum())
        if not learns:
            return cls(activations, fresh, None, dropped)
        half = seeded_half(digests, fresh)
        fresh &= ~half
        promise.rank(int(fresh.sum()))  # before the work: the rest must do for a threshold
        return cls(activations, fresh, half, dropped)

    @property
    def learned_from(self) -> int:
        """How many the detector learns from."""
        return 0 if self.taught is None else int(self.taught.sum())

    def teach(self, detector: Detector, head: LinearHead) -> None:
        """Let a fitted detector learn from its half of the images.

        Raises:
            LabelsRequired, NotEnoughImages, InvalidInput: as ``fit_held_out``.
        """
        if self.taught is not None:
            fit_held_out([detector], Rows(self.activations, self.taught), head)

    def scored(self, detector: Detector) -> tuple[Tensor, Tensor]:
        """Scores ``[F]`` and predicted classes ``[F]`` of the images for the threshold."""
        batches = self.activations.batches()
        scored = [(detector.score(batch), batch.predictions) for batch in batches]
        columns = zip(*scored, strict=True)
        scores, predictions = (torch.cat(column)[self.fresh] for column in columns)
        return scores, predictions
