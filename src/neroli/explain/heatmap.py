"""Heat maps: relevance that is given at the penultimate neurons, propagated to the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.classifier import Classifier
from neroli.errors import InvalidInput
from neroli.explain.pictures import colours_of, overlaid
from neroli.explain.propagation import Job, Start, in_full_precision, propagated
from neroli.stand_in import StandIn

if TYPE_CHECKING:
    from neroli.explain.rules import Rules


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

    def row(self, index: int) -> Heatmap:
        """Of one image alone, N = 1."""
        rows = slice(index, index + 1)
        return replace(
            self,
            relevance=self.relevance[rows],
            channels=self.channels[rows],
            started=self.started[rows],
            magnitude=self.magnitude[rows],
        )

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
    given back as it was found, with its parameters' gradients untouched.

    ``"composite"`` rules: z+ for convolutions (where nothing speaks for an output, what speaks
    against it shares its relevance) and epsilon, 1e-6, for linear layers; relevance of sums and
    means is shared in proportion to the magnitudes; normalisations and non-linear functions pass it
    on. Biases of convolutions and norms take none, so that folding a batch norm changes nothing;
    those of linear layers take the share ``|b| / (|z| + |b|)`` of theirs. ``"attention"`` rules are
    those of AttnLRP: gamma 0.25 for convolutions, the Jacobian of softmax and y / x for non-linear
    functions; much more is absorbed by them. ``Heatmap.conservation`` says how much arrived.

    A model in half precision is copied to float32 for this, in which the rules' small stabilisers
    do not vanish; the copy takes memory while the call lasts.

    Args:
        classifier: the network.
        images: ``[N, channels, H, W]`` as the network takes them, or as ``Classifier.prepare``.
        start: ``[N, D]`` relevance of the D neurons that the head reads, in any unit, or a function
            that computes it from the activations of a batch of these images.
        batch_size: images that are propagated at a time; memory grows with it and not with N.
        rules: which; ``"auto"`` takes ``"attention"`` where softmax weights multiply tokens.

    Returns:
        The heat maps, on the model's device. Where relevance propagation meets a step that it has
        no rule for, or does not yield finite numbers, all of them are gradient times input instead
        and say why: that of ``sum_j c_j a_j`` with the constants ``c_j = start_j / a_j``, which
        are zero where ``a_j`` is.

    Raises:
        InvalidInput: if images or start have the wrong shape or are not finite, an argument is out
            of range, the features are not differentiable in the images, or another program computes
            them (see ``neroli.stand_in``).
        HeadNotFound: if the network has no linear head.

    Source: layer-wise relevance propagation, Bach et al. 2015 (PLoS ONE 10, e0130140), composite
    rules of Montavon et al. 2019; AttnLRP, Achtibat et al. 2024 (arXiv 2402.05602).
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size must be at least 1, got {batch_size}.")
    if isinstance(classifier.model, StandIn):
        raise InvalidInput(classifier.model.refusal("Heat maps need"))
    if rules not in ("auto", "composite", "attention"):
        raise InvalidInput(f'rules must be "auto", "composite" or "attention", got {rules!r}.')
    # a caller's inference mode would make tensors that no gradient can pass; autocast mixes dtypes
    with torch.inference_mode(False), torch.no_grad():
        images = _checked_images(classifier, images)
        classifier.find_head(images)
        job = Job(in_full_precision(classifier, images), images, start, batch_size)
        with torch.autocast(classifier.placed(images[:1]).device.type, enabled=False):
            found = propagated(job, rules)
        return Heatmap(
            relevance=found.channels.sum(1),
            channels=found.channels,
            started=found.start.sum(1),
            magnitude=found.start.abs().sum(1),
            method="lrp" if found.reason is None else "gradient x input",
            rules=found.rules,
            reason=found.reason,
        )


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


def _checked_images(classifier: Classifier, images: Any) -> Tensor:
    prepared: Tensor = classifier.prepare(images)
    if prepared.ndim != 4:
        hint = ": a single image needs a batch dimension, images[None]" * (prepared.ndim == 3)
        raise InvalidInput(
            f"Heat maps need images [N, channels, H, W], got shape {list(prepared.shape)}{hint}."
        )
    return prepared
