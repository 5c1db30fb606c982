"""Several detectors as one: their scores, standardised, and put together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

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
from neroli.detectors.shares import Shares
from neroli.errors import InvalidInput, NeroliWarning, NotEnoughImages
from neroli.fitting import InProgress, Learning, in_step
from neroli.head import LinearHead
from neroli.statistics import Count, Reservoir, sampled
from neroli.taps import NOTHING, Requirements

_PREDICTED = {"labels": "predicted"}  # so that no labels are needed
DEFAULT_MEMBERS = (
    "cadref",
    {"name": "line", "hyperparameters": _PREDICTED},
    {"name": "relative_mahalanobis", "hyperparameters": _PREDICTED},
    "vim",
)
_SAMPLE = 10_000
"""Training images that scores are standardised over: KNN would take too long over a million."""
_LEVELS = (0.5, 0.95)
"""Quantiles of a member's scores that become 0 and 1."""
_LOW, _HIGH = -3.0, 6.0
"""A standardised score beyond these counts as these, so that no member outvotes all others."""
_ROUNDING = 1e-12
"""Spreads up to this are of rounding: of distances of images to themselves, say."""


@dataclass(eq=False)
class Ensemble(Detector):
    """Several detectors as one: the mean, or the largest, of their standardised scores.

    Each member's score is brought to 0 at its median and 1 at its 95 % quantile over ID images, and
    counts as at least -3 and at most 6, so that none outweighs the others by its scale or by a few
    huge scores. The ID images are those of training; of more than 10,000 a sample, by a hash of
    their ids.

    Args:
        members: detectors, or their names; or ``{"name": ..., "hyperparameters": {...}}`` each, as
            saved guards have them.
        combine: "mean" or "max" of the standardised scores.
        standardise_on: "training" images; or "held-out" ones, for members such as KNN that score
            the images they were fitted on too low: a guard then learns from half of its calibration
            images, as it does anyway where a member learns from these.

    A member whose upper scores do not vary counts as zero, with a warning; if that is so of all,
    NotEnoughImages is raised. The default members are neroli's default (docs/default.md says how
    they were chosen).

    Source: neroli's own; standardising and averaging scores is common practice.
    """

    name: ClassVar[str] = "ensemble"
    measures: ClassVar[str] = "mean or maximum of several detectors' standardised scores"

    members: Any = parameter(DEFAULT_MEMBERS, "the detectors, by name")
    combine: Literal["mean", "max"] = parameter("mean", "how standardised scores are put together")
    standardise_on: Literal["training", "held-out"] = parameter(
        "training", "images over which the members' scores are standardised"
    )

    medians: Tensor = learned()
    """Median score of every member, ``[M]``."""
    units: Tensor = learned()
    """How far the 95 % quantile of every member's score is above its median, ``[M]``."""

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
        self.shrunk = max((m.shrunk for m in self.members if m.shrunk is not None), default=None)
        yield from self._standardise(min(1.0, _SAMPLE / counted[0]))

    def learn_held_out(self, head: LinearHead) -> Learning:
        learners = [InProgress.of_held_out(member, head) for member in self.members]
        changed = any(learner.requests for learner in learners)
        yield from in_step(learners)
        self.__dict__["members"] = tuple(learner.fitted for learner in learners)
        if changed or self.standardise_on == "held-out":
            yield from self._standardise()

    def _standardise(self, share: float = 1.0) -> Learning:
        scores = yield _SomeScores(_MemberScores(self.members), _SAMPLE, share=share)
        self.medians, upper = scores.quantile(scores.new_tensor(_LEVELS), dim=0)
        self.units = upper - self.medians
        self._check_varies(len(scores))

    def _check_varies(self, images: int) -> None:
        """Warn of members that count as zero; raise NotEnoughImages if all of them do."""
        varies = self._varies.tolist()
        if not any(varies):
            raise NotEnoughImages(
                f"All {len(varies)} members of the ensemble score the {images} images that it is "
                "standardised on alike, so that any image would score zero and none be flagged: "
                "give more images, and check that the network tells them apart at all."
            )
        same = [m.name for m, each in zip(self.members, varies, strict=True) if not each]
        if same:
            warnings.warn(
                f"{len(same)} of {len(varies)} members of the ensemble count for nothing "
                f"({_listed(same)}), as the upper half of their scores of {images} images is all "
                "the same: give more images, or standardise_on='held-out' for members that score "
                "all they were fitted on alike.",
                NeroliWarning,
                stacklevel=2,
            )

    def compute(self, batch: Activations) -> Tensor:
        standard = self._standardised(_MemberScores(self.members)(batch)).clamp(_LOW, _HIGH)
        return standard.amax(1) if self.combine == "max" else standard.mean(1)

    def _standardised(self, scores: Tensor) -> Tensor:
        """Scores ``[N, M]`` of the members in their units, 0 of members that do not vary."""
        units = self.units.where(self._varies, 1.0)
        return torch.where(self._varies, (scores - self.medians) / units, 0.0)

    @property
    def _varies(self) -> Tensor:
        """Which members' scores vary by more than rounding, bool ``[M]``."""
        return self.units > _ROUNDING * (1 + self.medians.abs())

    @property
    def is_additive(self) -> bool:
        """Whether the score is a mean, and some member's is known as a sum over neurons."""
        return self.combine == "mean" and any(member.is_additive for member in self.members)

    def split(self, batch: Activations) -> Shares:
        """The mean of the members' shares in their units; of some, all of the score is rest.

        Where a standardised score counts as -3 or 6, its parts are scaled to sum to that.
        """
        if not self.is_additive:
            return super().split(batch)
        standard = self._standardised(_MemberScores(self.members)(batch))
        counted = standard.clamp(_LOW, _HIGH)
        # of a clipped score all parts are scaled; one that does not vary has no part
        scale = torch.where(standard == counted, 1.0, counted / standard) * self._varies
        scale /= self.units.where(self._varies, 1.0) * len(self.members)
        rest = counted.mean(dim=1)
        neurons, bias = torch.zeros_like(batch.features), torch.zeros_like(rest)
        rest_is = ["what the members' scores are in the median"]
        given: list[str] = []
        for member, factor in zip(self.members, scale.unbind(1), strict=True):
            if not member.is_additive:
                rest_is.append(f"the score of {type(member).__name__}")
                continue
            shares = member.shares(batch)
            part, of_bias = shares.neurons * factor[:, None], shares.bias * factor
            neurons, bias = neurons + part, bias + of_bias
            rest = rest - part.sum(dim=1) - of_bias
            rest_is += [shares.rest_is] * bool(shares.rest_is)
            given += [shares.given] * bool(shares.given)
        return Shares(neurons, bias, rest, _listed(rest_is), _listed(given))

    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters by name; of each member its name and its own."""
        own = {"combine": self.combine, "standardise_on": self.standardise_on}
        return {"members": list(map(described, self.members)), **own}

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
    """The scores of several detectors, ``[N, M]``."""

    members: tuple[Detector, ...]

    def __call__(self, batch: Activations) -> Tensor:
        return torch.stack([member.score(batch) for member in self.members], dim=1)


@dataclass
class _SomeScores(Reservoir):
    """A sample of scores, of which only a share of the images is scored at all.

    Args:
        share: of the images, in 0..1, as ``sampled`` chooses them.
    """

    share: float = 1.0

    def update(self, batch: Activations) -> None:
        super().update(sampled(batch, self.share, self.seed))


def _listed(phrases: Sequence[str]) -> str:
    """Phrases, each once, as one."""
    return ", ".join(dict.fromkeys(phrases))
