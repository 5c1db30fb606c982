"""Views: another detector's score, averaged over an image and changed pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import parameter
from neroli.detectors.base import Detector
from neroli.detectors.ensemble import Ensemble
from neroli.detectors.members import (
    described,
    forgotten,
    load_members,
    made,
    state_of,
    without_members,
)
from neroli.detectors.shares import Shares
from neroli.errors import InvalidInput
from neroli.fitting import InProgress, Learning, in_step
from neroli.head import LinearHead
from neroli.taps import Requirements
from neroli.views import View, ViewProbe


@dataclass(eq=False)
class Views(Detector):
    """The mean of another detector's score over an image and views of it.

    ``(s(x) + s(v_1(x)) + ... + s(v_V(x))) / (1 + V)``: what of a score is chance of where the
    object lies averages out. The detector s learns from the images alone, not from their views. It
    runs the network 1 + V times for every image that is scored or calibrated with.

    Args:
        detector: another detector, or its name; or ``{"name": ..., "hyperparameters": {...}}``, as
            saved guards have it.
        views: the views, each "mirror", "flip", "left:4" (or right, up, down; pixels of the
            network's input) or "rotate:5" (degrees counter-clockwise). Only the user knows which
            leave the class of every image as it is: a mirrored chest X-ray has its heart on the
            wrong side. So there is no default.

    Source: neroli's own; averaging over such views is common practice, as with classifiers.
    """

    name: ClassVar[str] = "views"
    measures: ClassVar[str] = (
        "mean of a detector's score over an image and V views of it, by 1 + V runs of the network"
    )
    uses_head: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"views": ("mirror",)})

    detector: Any = parameter(Ensemble.name, "the detector whose score is averaged, by name")
    views: tuple[str, ...] = parameter(
        (), "changes that leave every image's class as it is, such as mirror,left:2; to be named"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.detector = made(self.detector, "The detector of views")
        if not self.views:
            raise InvalidInput(
                "No view is named: name those that leave the class of every image as it is, "
                'views=["mirror", "left:2"] (--set views=mirror,left:2).'
            )
        self.views = tuple(str(View.parse(view)) for view in self.views)
        for view in self.views:
            if self.views.count(view) > 1:
                raise InvalidInput(f"The view {view!r} is named twice: name it once.")

    @property
    def members(self) -> tuple[Detector]:
        """The detector whose score is averaged, alone."""
        return (self._member,)

    @property
    def _member(self) -> Detector:
        member: Detector = self.detector
        return member

    @property
    def requires(self) -> Requirements:
        return self._member.requires | Requirements(probes=self._probes())

    @property
    def requires_to_fit(self) -> Requirements:
        return self._member.requires_to_fit

    @property
    def assumes(self) -> tuple[Assumption, ...]:  # type: ignore[override]
        return self._member.assumes

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        return self._member.assumed

    def learn(self, head: LinearHead) -> Learning:
        yield from self._delegated(InProgress.of_training(self._member, head))
        self.shrunk = self._member.shrunk

    def learn_held_out(self, head: LinearHead) -> Learning:
        yield from self._delegated(InProgress.of_held_out(self._member, head))

    def _delegated(self, learner: InProgress) -> Learning:
        yield from in_step([learner])
        self.__dict__["detector"] = learner.fitted

    def compute(self, batch: Activations) -> Tensor:
        return torch.stack([self._member.score(each) for each in self._seen(batch)]).mean(dim=0)

    @property
    def is_additive(self) -> bool:
        """Whether ``shares`` is known of the detector whose score is averaged."""
        return self._member.is_additive

    def split(self, batch: Activations) -> Shares:
        """The mean of the shares, as the score is that of the scores."""
        of_views = [self._member.shares(each) for each in self._seen(batch)]
        parts = zip(*((s.neurons, s.bias, s.rest) for s in of_views), strict=True)
        neurons, bias, rest = (torch.stack(part).mean(dim=0) for part in parts)
        given = of_views[0].given
        return Shares(neurons, bias, rest, of_views[0].rest_is, given and f"{given}, in each view")

    def compared_class(self, batch: Activations) -> Tensor:
        """The class that the image itself is compared with."""
        return self._member.compared_class(batch)

    def evidence(self, head: LinearHead) -> Callable[[Activations], Tensor]:
        """What neurons of the image itself contribute."""
        return self._member.evidence(head)

    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters by name; of the detector its name and its own."""
        return {"detector": described(self._member), "views": self.views}

    def state(self) -> dict[str, Tensor]:
        """What the detector learned, as ``Detector.state``; the head once."""
        return super().state() | state_of(self.members)

    def load_state(self, state: dict[str, Tensor]) -> Self:
        """Take over what ``state()`` gave, as ``Detector.load_state``."""
        super().load_state(without_members(state))
        load_members(self.members, state)
        return self

    def forget(self) -> None:
        """Drop everything learned; a detector that others hold is left as it is."""
        super().forget()
        (self.detector,) = forgotten(self.members)

    def _probes(self) -> tuple[ViewProbe, ...]:
        return tuple(ViewProbe(View.parse(view), self._member.requires) for view in self.views)

    def _seen(self, batch: Activations) -> list[Activations]:
        """The images and every view of them."""
        assert self.head is not None
        return [batch, *(probe.seen(batch, self.head) for probe in self._probes())]
