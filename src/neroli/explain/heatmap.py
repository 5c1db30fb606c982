"""Heat maps: relevance that is given at the penultimate neurons, propagated to the pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.classifier import Classifier
from neroli.errors import InvalidInput
from neroli.explain.pictures import colours_of, overlaid
from neroli.head import HeadPath
from neroli.running import LastCalls, run, watched

if TYPE_CHECKING:
    from neroli.explain.rules import Rules

Start = Callable[[Activations], Tensor]
"""The relevance ``[n, D]`` to start from at the penultimate neurons of a batch of n images."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Relevance of the pixels of N images, in the units of what it was started from.

    Args:
        relevance: ``[N, H, W]``, the sum over the colour channels; positive where the pixel speaks
            for what the map was started from.
        channels: ``[N, channels, H, W]``, as propagated.
        started: ``[N]``, the sum of the relevance at the neurons.
        magnitude: ``[N]``, the sum of its absolute values.
        method: one for all images of a call. Gradient times input takes the place of relevance
            propagation where a network has a step that there is no rule for; it is noisier, and
            its sum need not come near ``started``.
        rules: those of relevance propagation, see ``propagate``; None without.
        reason: why it fell back, a clause about the network; None with relevance propagation.
    """

    relevance: Tensor
    channels: Tensor
    started: Tensor
    magnitude: Tensor
    method: Literal["lrp", "gradient x input"]
    rules: Rules | None
    reason: str | None

    def __len__(self) -> int:
        return len(self.relevance)

    @property
    def absorbed(self) -> Tensor:
        """Relevance that did not arrive at the pixels, ``[N]``, as a share of the magnitude.

        Biases and stabilisers take it up; negative if more arrived than started. Zero for an image
        that nothing was started from.
        """
        lost = self.started - self.relevance.sum((1, 2))
        return lost / self.magnitude.masked_fill(self.magnitude == 0, 1)

    @property
    def conservation(self) -> Tensor:
        """How far the sum over the pixels is from ``started``, ``[N]``; 0 is perfect.

        ``|sum of pixels - sum of start| / sum of |start|``, the absolute value of ``absorbed``.
        """
        return self.absorbed.abs()

    def colours(
        self, *, quantile: float = 0.995, smoothing: float = 0.0
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The maps in colour, ``[N, H, W, 3]`` uint8: red for, blue against, white for nothing.

        Args:
            quantile: of the absolute values of each image, which gets the full colour, so that a
                few extreme pixels do not leave the rest white.
            smoothing: standard deviation of a Gaussian blur, in pixels; none when left out.

        Raises:
            InvalidInput: if these are out of range.
        """
        return colours_of(self.relevance, quantile=quantile, smoothing=smoothing)

    def overlay(
        self,
        pictures: np.ndarray[Any, Any] | Tensor,
        *,
        strength: float = 0.9,
        quantile: float = 0.995,
        smoothing: float = 0.0,
        interpolation: Literal["nearest", "bilinear"] = "bilinear",
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The maps over their pictures, ``[N, h, w, 3]`` uint8.

        The pictures lose their colours, which would be mixed up with those of the map, and show
        where there is no relevance.

        Args:
            pictures: ``[N, h, w, 3]`` uint8, of any size; see ``pictures_of`` for those that the
                network was given.
            strength: how much of the picture the full colour covers, 0 to 1.
            quantile: as in ``colours``.
            smoothing: as in ``colours``, in pixels of the map.
            interpolation: how the map is brought to the size of the pictures.

        Raises:
            InvalidInput: if the pictures are not such, or an argument is out of range.
        """
        return overlaid(
            self.relevance,
            pictures,
            strength=strength,
            quantile=quantile,
            smoothing=smoothing,
            interpolation=interpolation,
        )


def propagate(
    classifier: Classifier,
    images: Any,
    start: Tensor | Start,
    *,
    batch_size: int = 8,
    rules: Literal["auto"] | Rules = "auto",
) -> Heatmap:
    """Propagate relevance from the penultimate neurons to the pixels.

    The network is run twice and then walked backwards, about the time of five to ten runs; it is
    given back as it was found, with its parameters' gradients untouched. ``"composite"`` are the
    z+ rule for convolutions and the epsilon rule (1e-6) for linear layers; relevance of sums and
    means is shared in proportion to the magnitudes, and normalisations and non-linear functions
    pass it on. ``"attention"`` are those of AttnLRP: gamma 0.25 for convolutions, the Jacobian of
    softmax and y / x for non-linear functions. Conservation says how much arrived.

    A model in half precision is copied to float32 for this, in which the rules' small stabilisers
    do not vanish; the copy takes memory while the call lasts.

    Args:
        classifier: the network.
        images: ``[N, channels, H, W]`` as the network takes them, or as ``Classifier.prepare``.
        start: ``[N, D]`` relevance of the D neurons that the head reads, in any unit, or a function
            that computes it from the activations of a batch of these images.
        batch_size: images that are propagated at a time; memory grows with it and not with N.
        rules: which; ``"auto"`` takes ``"attention"`` for networks that have softmax inside.

    Returns:
        The heat maps, on the model's device. Where relevance propagation meets a step that it has
        no rule for, or does not yield finite numbers, all of them are gradient times input instead
        and say why: that of ``sum_j c_j a_j`` with the constants ``c_j = start_j / a_j``, which
        are zero where ``a_j`` is.

    Raises:
        InvalidInput: if images or start have the wrong shape or are not finite, an argument is out
            of range, or the features are not differentiable in the images.
        HeadNotFound: if the network has no linear head.

    Source: layer-wise relevance propagation, Bach et al. 2015 (PLoS ONE 10, e0130140), composite
    rules of Montavon et al. 2019; AttnLRP, Achtibat et al. 2024 (arXiv 2402.05602).
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size must be at least 1, got {batch_size}.")
    if rules not in ("auto", "composite", "attention"):
        raise InvalidInput(f'rules must be "auto", "composite" or "attention", got {rules!r}.')
    # a caller's inference mode would make tensors that no gradient can pass; autocast mixes dtypes
    with torch.inference_mode(False), torch.no_grad():
        images = _checked_images(classifier, images)
        classifier.find_head(images)
        job = _Job(_in_full_precision(classifier, images), images, start, batch_size)
        with torch.autocast(images.device.type, enabled=False):
            return _propagated(job, rules)


def of_prediction(
    classifier: Classifier,
    images: Any,
    *,
    batch_size: int = 8,
    rules: Literal["auto"] | Rules = "auto",
) -> Heatmap:
    """Where in the images the predicted class was seen.

    Started from what each neuron adds to the predicted class's logit, ``w_cj a_j``; the sum of that
    is the logit without its bias. Arguments, result and errors as in ``propagate``.
    """
    images = _checked_images(classifier, images)
    start = _prediction_start(classifier, images)
    return propagate(classifier, images, start, batch_size=batch_size, rules=rules)


def of_neurons(
    classifier: Classifier,
    images: Any,
    neurons: Sequence[int],
    *,
    batch_size: int = 8,
    rules: Literal["auto"] | Rules = "auto",
) -> Heatmap:
    """Where in the images chosen neurons saw what they add to the predicted class.

    Started as ``of_prediction``, with all other neurons set to zero: the heat map of a concept that
    the neurons stand for. Arguments, result and errors otherwise as in ``propagate``.

    Args:
        neurons: indices of penultimate neurons, 0 to D - 1.

    Raises:
        InvalidInput: if there are none, or one is out of range.

    Source: concept relevance propagation, Achtibat et al. 2023 (arXiv 2206.03208).
    """
    images = _checked_images(classifier, images)
    start = _prediction_start(classifier, images)
    kept = [int(neuron) for neuron in neurons]
    size = classifier.head.num_features
    if not kept:
        raise InvalidInput(f"neurons is empty: name at least one, 0 to {size - 1}.")
    for neuron in kept:
        if not 0 <= neuron < size:
            raise InvalidInput(f"There is no neuron {neuron}: they are 0 to {size - 1}.")

    def of_these(batch: Activations) -> Tensor:
        mask = batch.features.new_zeros(size)
        mask[kept] = 1
        return start(batch) * mask

    return propagate(classifier, images, of_these, batch_size=batch_size, rules=rules)


def _prediction_start(classifier: Classifier, images: Tensor) -> Start:
    classifier.find_head(images)
    head = classifier.head

    def start(batch: Activations) -> Tensor:
        return head.like(batch.features).weight[batch.predictions] * batch.features

    return start


@dataclass(frozen=True, eq=False)
class _Job:
    """What is to be propagated where."""

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


def _propagated(job: _Job, rules: Literal["auto"] | Rules) -> Heatmap:
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
    channels, start = torch.cat(maps), torch.cat(starts)
    return Heatmap(
        relevance=channels.sum(1),
        channels=channels,
        started=start.sum(1),
        magnitude=start.abs().sum(1),
        method="lrp" if reason is None else "gradient x input",
        rules=used,
        reason=reason,
    )


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


def _checked_images(classifier: Classifier, images: Any) -> Tensor:
    prepared: Tensor = classifier.prepare(images)
    if prepared.ndim != 4:
        hint = ": a single image needs a batch dimension, images[None]" * (prepared.ndim == 3)
        raise InvalidInput(
            f"Heat maps need images [N, channels, H, W], got shape {list(prepared.shape)}{hint}."
        )
    return prepared


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


def _in_full_precision(classifier: Classifier, images: Tensor) -> Classifier:
    """The classifier, or a copy of it in float32 if its model is in half precision."""
    if classifier.placed(images[:1]).dtype not in (torch.float16, torch.bfloat16):
        return classifier
    twin = copy.copy(classifier)
    twin.model = copy.deepcopy(classifier.model).float()
    return twin
