"""A batch at a time from given relevance of the neurons to that of the pixels, one way or other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.classifier import Classifier
from neroli.errors import InvalidInput
from neroli.head import HeadPath
from neroli.running import LastCalls, run, watched

if TYPE_CHECKING:
    from neroli.explain.rules import Rules

Start = Callable[[Activations], Tensor]
"""The relevance ``[n, D]`` to start from at the penultimate neurons of a batch of n images."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be propagated where.

    Args:
        classifier: whose head is found.
        images: ``[N, channels, H, W]``, preprocessed.
        start: ``[N, D]``, or what computes it.
        batch_size: images at a time.
    """

    classifier: Classifier
    images: Tensor
    start: Tensor | Start
    batch_size: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, their features and the relevance to start from, some at a time."""
        expected = [len(self.images), self.classifier.head.num_features]
        if not callable(self.start):
            _check_start(self.start, expected)
        for first in range(0, len(self.images), self.batch_size):
            rows = slice(first, first + self.batch_size)
            # a copy, which a model may change in place
            images = self.classifier.placed(self.images[rows]).clone()
            batch = self.classifier(images)
            if callable(self.start):
                start = self.start(batch)
                _check_start(start, [len(images), expected[1]])
            else:
                start = self.start[rows]
            yield images, batch.features, start.detach().to(batch.features).clone()


@dataclass(frozen=True, eq=False)
class Propagated:
    """Relevance ``[N, channels, H, W]`` and what it was started from, ``[N, D]``."""

    channels: Tensor
    start: Tensor
    rules: Rules | None
    reason: str | None


def propagated(job: Job, rules: Literal["auto"] | Rules) -> Propagated:
    """The relevance of the pixels by rules; without these by gradients, and the reason."""
    # imported late: autolrp is needed for nothing else; as it is loaded, it tries gradients out
    with torch.enable_grad():
        from neroli.explain.rules import NoRules, by_rules

    model, head = job.classifier.model, HeadPath.parse(job.classifier.head_name)
    maps, starts = [], []
    used: Rules | None = None
    reason = None
    try:
        for images, features, start in job.batches():
            relevance, used = by_rules(model, head, images, features, start, rules)
            maps.append(relevance)
            starts.append(start)
    except NoRules as error:
        used, reason, maps, starts = None, str(error), [], []
        for images, features, start in job.batches():
            maps.append(_gradient_times_input(job.classifier, head, images, features, start))
            starts.append(start)
    return Propagated(torch.cat(maps), torch.cat(starts), used, reason)


def _gradient_times_input(
    classifier: Classifier, head: HeadPath, images: Tensor, features: Tensor, start: Tensor
) -> Tensor:
    factors = torch.where(features == 0, 0, start / features)
    calls = LastCalls()
    leaf = images.clone().requires_grad_()
    with watched(classifier.model, calls.watch(head.modules)), torch.enable_grad():
        run(classifier.model, leaf.clone())  # a copy, since a model may begin by working in place
        computed = head.read(calls)[0]
        if not computed.requires_grad:
            raise InvalidInput(
                "The network's features are not differentiable in its images, so that nothing can "
                "be propagated to these: look for detach() or no_grad() in its forward()."
            )
        try:
            (gradient,) = torch.autograd.grad(
                computed, leaf, factors.to(computed), allow_unused=True
            )
        except RuntimeError as error:  # such as of what a later layer changes in place
            raise InvalidInput(f"The network cannot be differentiated: {error}") from error
    relevance = images * (torch.zeros_like(images) if gradient is None else gradient)
    if not torch.isfinite(relevance).all():
        raise InvalidInput(
            "The gradient of the start at the images is not finite: look for features near zero "
            "that large relevance was given to."
        )
    return relevance.detach()


def _check_start(start: Any, expected: list[int]) -> None:
    if not isinstance(start, Tensor) or not start.is_floating_point():
        got = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise InvalidInput(f"start must be a floating-point tensor {expected}, got {got}.")
    if list(start.shape) != expected:
        raise InvalidInput(
            f"start must have shape {expected}, one value for every image and penultimate neuron, "
            f"got {list(start.shape)}."
        )
    bad = (~torch.isfinite(start).all(1)).nonzero()
    if len(bad):
        raise InvalidInput(
            f"start holds NaN or infinity for image {int(bad[0])}: give finite relevance, zero "
            "where there is none."
        )


def in_full_precision(classifier: Classifier, images: Tensor) -> Classifier:
    """The classifier with its network as it is; in a copy in float32 if that is in half."""
    classifier = classifier.as_it_is()
    if classifier.placed(images[:1]).dtype not in (torch.float16, torch.bfloat16):
        return classifier
    twin = copy.copy(classifier)
    twin.model = copy.deepcopy(classifier.model).float()
    return twin
