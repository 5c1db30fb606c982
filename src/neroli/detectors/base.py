"""The contract of every detector: hyper-parameters in, statistics asked for, scores out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from neroli.activations import Activations, ActivationSource, all_finite
from neroli.assumptions import Assumption, of_classes
from neroli.detectors.about import Hyperparameter, Paper
from neroli.detectors.shares import Shares
from neroli.errors import ArtefactError, InvalidInput, NotFitted
from neroli.fitting import Learning, fit
from neroli.head import LinearHead
from neroli.relevance import ClassEvidence
from neroli.taps import NOTHING, Requirements
from neroli.validation import check_types


def learned() -> Any:
    """A dataclass field that fitting fills with a tensor; the others are hyper-parameters."""
    return field(init=False, repr=False, compare=False, metadata={"learned": True})


@dataclass(eq=False)
class Detector(ABC):
    """Tells how far an image lies outside the training distribution.

    A subclass is a dataclass: its fields are the paper's hyper-parameters, declared with
    ``parameter()``, and, marked ``learned()``, the tensors it learns. It implements ``compute``
    and, unless it learns nothing, ``learn``.
    """

    name: ClassVar[str]
    """What the command line and saved guards call it."""
    paper: ClassVar[Paper | None] = None
    """Where it was published; None of what is common knowledge."""
    measures: ClassVar[str]
    """What its score is, a phrase for tables."""
    assumes: ClassVar[tuple[Assumption, ...]] = ()
    """What it takes for granted of the training images, their features and logits."""
    uses_head: ClassVar[bool] = False
    """Whether ``compute`` needs the head, so that it must be fitted even if it learns nothing."""
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Hyper-parameters to try it with, where only the user can say what they must be."""

    head: LinearHead | None = field(default=None, init=False, repr=False, compare=False)
    shrunk: float | None = field(default=None, init=False, repr=False, compare=False)
    """How much the last fit shrunk a covariance, at most; None if it has none. It is not saved."""

    @property
    def requires(self) -> Requirements:
        """What it needs beyond features and logits, as its hyper-parameters are now."""
        return NOTHING

    @property
    def requires_to_fit(self) -> Requirements:
        """What of that fitting needs: nothing if nothing is learned."""
        return self.requires if self._learned_fields() else NOTHING

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        """``assumes``, as its hyper-parameters are now: whose images of a class it learns from."""
        return tuple(of_classes(a, getattr(self, "labels", "true")) for a in self.assumes)

    def __post_init__(self) -> None:
        """Check the hyper-parameters, and convert them to their types.

        Raises:
            InvalidInput: naming the one that has the wrong type or lies outside of its limits.
        """
        check_types(self)
        for hyperparameter in self.declared():
            hyperparameter.check(getattr(self, hyperparameter.name))

    def learn(self, head: LinearHead) -> Learning:
        """Ask for statistics of the training activations and keep what is learned from them."""
        return
        yield

    def learn_held_out(self, head: LinearHead) -> Learning:
        """Ask for statistics of held-out images and keep what is learned from them; nothing here.

        For what training images would bias, as a temperature. It follows the protocol of ``learn``
        and runs after it, over in-distribution activations with labels that the classifier was not
        trained on. What it learns replaces what ``learn`` did, and it may not run at all: ``learn``
        must leave the detector able to score.
        """
        return
        yield

    @abstractmethod
    def compute(self, batch: Activations) -> Tensor:
        """Scores ``[N]`` of a batch, in its dtype; what was learned is in that dtype too."""

    def score(self, batch: Activations) -> Tensor:
        """How far every image lies out of distribution: higher is farther.

        Args:
            batch: activations of N images, from the classifier the detector was fitted on.

        Returns:
            ``[N]`` scores in the features' dtype and on their device.

        Raises:
            NotFitted: if the detector learns from training images or needs the head, and was not
                fitted.
            InvalidInput: if the batch is of another model, lacks what is required, or holds NaN or
                infinity.
        """
        self.check(batch)
        with torch.no_grad(), _full_precision(batch):
            scores = self._placed(batch.features).compute(batch)
        if not isinstance(scores, Tensor) or scores.shape != (len(batch),):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"compute() of {type(self).__name__} must give a score for each of the "
                f"{len(batch)} images, [{len(batch)}], got {got}."
            )
        if not all_finite(scores):
            row = int((~torch.isfinite(scores)).nonzero()[0])
            name = f"row {row}" if batch.ids is None else f"image {batch.ids[row]!r}"
            raise InvalidInput(
                f"The {type(self).__name__} score of {name} is not finite: its features or logits "
                "are too large or too small for the arithmetic."
            )
        return scores

    def shares(self, batch: Activations) -> Shares:
        """The score taken apart into what each neuron adds.

        Args:
            batch: as of ``score``.

        Returns:
            parts ``[N, D]`` and ``[N]`` in the features' dtype that sum to the score.

        Raises:
            NotFitted, InvalidInput: as ``score``; InvalidInput too if this method's score is not
                known as a sum over neurons.
        """
        self.check(batch)
        if self.head is None:
            raise NotFitted(f"{type(self).__name__} needs the head: call fit first.")
        with torch.no_grad(), _full_precision(batch):
            return self._placed(batch.features).split(batch)

    @property
    def is_additive(self) -> bool:
        """Whether ``shares`` is known of this method."""
        return type(self).split is not Detector.split

    def compared_class(self, batch: Activations) -> Tensor:
        """The class that explanations compare each image with, ``[N]``: here the predicted one."""
        return batch.predictions

    def split(self, batch: Activations) -> Shares:
        """What ``shares`` gives, if the method is known as a sum over neurons; see ``compute``."""
        raise InvalidInput(
            f"The score of {type(self).__name__} is not known as a sum over neurons: choose "
            "another detector to explain, such as NERO, LINe, CADRef or RelevanceDeviation."
        )

    def evidence(self, head: LinearHead) -> Callable[[Activations], Tensor]:
        """What neurons, and in the last column the bias, contribute to the prediction.

        A quantity ``[N, D + 1]`` by which explanations compare an image with training images; here
        that to the predicted class's logit.
        """
        return ClassEvidence(head)

    def check(self, batch: Activations) -> None:
        """Raise NotFitted or InvalidInput if it could not score the batch, as ``score`` does."""
        missing = [f.name for f in self._learned_fields() if not hasattr(self, f.name)]
        if missing or (self.uses_head and self.head is None):
            raise NotFitted(
                f"{type(self).__name__} is not fitted: call fit([detector], training, head) first."
            )
        expected = None if self.head is None else (self.head.num_features, self.head.num_classes)
        if expected is not None and expected != (batch.num_features, batch.num_classes):
            raise InvalidInput(
                f"This {type(self).__name__} was fitted on {expected[0]} features and "
                f"{expected[1]} classes, the batch has {batch.num_features} and "
                f"{batch.num_classes}: it is of another model."
            )
        self.requires.check(batch)
        batch.check_finite()

    def fit(self, activations: ActivationSource, head: LinearHead) -> Self:
        """Fit this detector alone; ``neroli.fit`` fits several in the same passes."""
        fit([self], activations, head)
        return self

    @classmethod
    def _learned_fields(cls) -> list[Any]:
        return [f for f in fields(cls) if f.metadata.get("learned")]

    @classmethod
    def declared(cls) -> list[Hyperparameter]:
        """Its hyper-parameters with their defaults, meanings and limits."""
        return [Hyperparameter.of(f) for f in fields(cls) if f.init]

    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def state(self) -> dict[str, Tensor]:
        """Everything learned, as a flat dict of named tensors on the CPU.

        Raises:
            NotFitted: if there is nothing to save yet.
        """
        if self.head is None:
            raise NotFitted(f"{type(self).__name__} is not fitted: there is no state to save.")
        state = {f.name: getattr(self, f.name) for f in self._learned_fields()}
        state |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        # copies: detectors fitted together share what they learned, which files may not
        return {name: t.detach().cpu().clone().contiguous() for name, t in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> Self:
        """Take over what ``state()`` gave; replaces what was learned before.

        Raises:
            ArtefactError: if a tensor is missing or there is one too many.
        """
        names = {f.name for f in self._learned_fields()}
        expected = names | {"head.weight", "head.bias"}
        if expected != state.keys():
            missing, unknown = expected - state.keys(), state.keys() - expected
            raise ArtefactError(
                f"The saved state is not one of {type(self).__name__}: missing "
                f"{sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}."
            )
        self.forget()
        self.head = LinearHead(state["head.weight"], state["head.bias"])
        for name in names:
            setattr(self, name, state[name])
        return self

    def forget(self) -> None:
        """Drop everything learned."""
        for name in ["head", "shrunk", "_placed_copy", *(f.name for f in self._learned_fields())]:
            self.__dict__.pop(name, None)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("head") is not None and name in self.hyperparameters():
            raise InvalidInput(
                f"This {type(self).__name__} is fitted: create another with {name}={value!r} and "
                "fit that."
            )
        self.__dict__.pop("_placed_copy", None)
        super().__setattr__(name, value)

    def _placed(self, like: Tensor) -> Self:
        """This detector with what it learned in the tensor's dtype and on its device, cached."""
        cached: tuple[tuple[torch.dtype, torch.device], Self] | None
        cached = self.__dict__.get("_placed_copy")
        key = (like.dtype, like.device)
        if cached is None or cached[0] != key:
            placed = copy.copy(self)
            if self.head is not None:
                placed.head = self.head.like(like)
            for f in self._learned_fields():
                value: Tensor = getattr(self, f.name)
                dtype = like.dtype if value.is_floating_point() else value.dtype
                setattr(placed, f.name, value.to(like.device, dtype))
            self.__dict__["_placed_copy"] = cached = (key, placed)
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_placed_copy"}


def _full_precision(batch: Activations) -> torch.autocast:
    """Without a caller's autocast: scores are as they were when the threshold was set."""
    return torch.autocast(batch.features.device.type, enabled=False)
