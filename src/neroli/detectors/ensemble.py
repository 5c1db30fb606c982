"""Several detectors as one: their scores, standardised, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.members import (
    described,
    forgotten,
    load_members,
    made,
    state_of,
    without_members,
)
from neroli.errors import InvalidInput
from neroli.fitting import InProgress, Learning, in_step
from neroli.head import LinearHead
from neroli.moments import Covariance
from neroli.statistics import Count, keyed_hashes
from neroli.taps import NOTHING, Requirements

DEFAULT_MEMBERS = ("vim", "cadref", "knn", "line")
_SAMPLE = 10_000
"""Training images that scores are standardised over: KNN would take too long over a million."""
_ROUNDING = 1e-12
"""Deviations up to this are of rounding: of distances of images to themselves, say."""


@dataclass(eq=False)
class Ensemble(Detector):
    """Several detectors as one: the mean, or the largest, of their standardised scores.

    Each member's score is brought to mean zero and variance one over in-distribution images, so
    that none outweighs the others by its scale. These are held-out images where there are any (a
    guard learns them from half of its calibration images), since members such as KNN score the
    images they were fitted on too low; until then the training images serve, or some 10,000 of
    them, chosen by a hash of their ids.

    Args:
        members: detectors, or their names; or ``{"name": ..., "hyperparameters": {...}}`` each, as
            saved guards have them.
        combine: "mean" or "max" of the standardised scores.

    A member whose scores do not vary counts as zero. The members were chosen for being unlike.

    Source: neroli's own; standardising and averaging scores is common practice.
    """

    name: ClassVar[str] = "ensemble"
    measures: ClassVar[str] = "mean or maximum of several detectors' standardised scores"

    members: Any = parameter(DEFAULT_MEMBERS, "the detectors, by name")
    combine: Literal["mean", "max"] = parameter("mean", "how standardised scores are put together")

    means: Tensor = learned()
    """Mean score of every member, ``[M]``."""
    deviations: Tensor = learned()
    """Standard deviation of every member's score, ``[M]``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.members
        if isinstance(given, str | Detector) or not isinstance(given, Sequence) or not given:
            raise InvalidInput(f"An ensemble needs a list of detectors, got {given!r}.")
        self.members = tuple(made(one, "A member of an ensemble") for one in given)

    @property
    def requires(self) -> Requirements:
        needed = NOTHING
        for member in self.members:
            needed = needed | member.requires
        return needed

    @property
    def assumes(self) -> tuple[Assumption, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(a for member in self.members for a in member.assumes))

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        return tuple(dict.fromkeys(a for member in self.members for a in member.assumed))

    def learn(self, head: LinearHead) -> Learning:
        learners = [InProgress.of_training(member, head) for member in self.members]
        counted: list[int] = []

        def count() -> Learning:
            counted.append((yield Count()))

        yield from in_step([*learners, InProgress(self, count())])
        self.__dict__["members"] = tuple(learner.fitted for learner in learners)
        yield from self._standardise(min(1.0, _SAMPLE / counted[0]))

    def learn_held_out(self, head: LinearHead) -> Learning:
        learners = [InProgress.of_held_out(member, head) for member in self.members]
        yield from in_step(learners)
        self.__dict__["members"] = tuple(learner.fitted for learner in learners)
        yield from self._standardise()

    def _standardise(self, share: float = 1.0) -> Learning:
        scores = yield Covariance(_MemberScores(self.members, share))
        self.means = scores.mean
        self.deviations = scores.covariance.diagonal().clamp(min=0).sqrt()

    def compute(self, batch: Activations) -> Tensor:
        varies = self.deviations > _ROUNDING * (1 + self.means.abs())
        scores = _MemberScores(self.members)(batch) - self.means
        standard = torch.where(varies, scores / self.deviations.where(varies, 1.0), 0.0)
        return standard.amax(1) if self.combine == "max" else standard.mean(1)

    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters by name; of each member its name and its own."""
        return {"members": list(map(described, self.members)), "combine": self.combine}

    def state(self) -> dict[str, Tensor]:
        """What the members and the ensemble learned, as ``Detector.state``; the head once."""
        return super().state() | state_of(self.members)

    def load_state(self, state: dict[str, Tensor]) -> Self:
        """Take over what ``state()`` gave, as ``Detector.load_state``."""
        super().load_state(without_members(state))
        load_members(self.members, state)
        return self

    def forget(self) -> None:
        """Drop everything learned; members that others hold are left as they are."""
        super().forget()
        self.members = forgotten(self.members)


@dataclass(frozen=True, eq=False)
class _MemberScores:
    """The scores of several detectors, ``[N, M]``, or of a share of the N images."""

    members: tuple[Detector, ...]
    share: float = 1.0

    def __call__(self, batch: Activations) -> Tensor:
        if self.share < 1:
            hashes = keyed_hashes(batch, "features", seed=0).astype(np.float64)
            batch = batch.select(torch.from_numpy(hashes < self.share * 2.0**64))
        return torch.stack([member.score(batch) for member in self.members], dim=1)
