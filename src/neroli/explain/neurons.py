"""Neurons: what an image's prediction and its score rest on, beside what is usual for its class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neroli.activations import Activations, ActivationSource
from neroli.detectors import Detector
from neroli.detectors.shares import Shares
from neroli.errors import NotEnoughImages
from neroli.explain.reference import Reference
from neroli.fitting import gather
from neroli.head import LinearHead
from neroli.moments import ClassMoments

_Z95 = 1.959963984540054
_TENSORS = ("classes", "evidence", "bias_evidence", "usual", "spread", "usual_bias", "active")


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of N images.

    Attributes:
        classes: which class each image is compared with, ``[N]``: the nearest by NERO, else the
            predicted one.
        evidence: what each neuron contributes to the prediction, ``[N, D]``: in units of the
            predicted class's logit; with NERO, its relevance, all of which sum to one.
        bias_evidence: the same of the bias of the head, ``[N]``.
        usual: mean evidence of the training images predicted as that class, ``[N, D]``.
        spread: its standard deviation, ``[N, D]``.
        usual_bias: mean evidence of the bias there, ``[N]``.
        active: which neurons are not zero, ``[N, D]``; only these can be shown in pixels.
        shares: what each neuron adds to the score; None where that is not known of the detector.
    """

    classes: Tensor
    evidence: Tensor
    bias_evidence: Tensor
    usual: Tensor
    spread: Tensor
    usual_bias: Tensor
    active: Tensor
    shares: Shares | None

    def row(self, index: int) -> Neurons:
        """Of one image alone, N = 1."""
        rows = slice(index, index + 1)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _TENSORS},
            shares=None if self.shares is None else self.shares.row(index),
        )

    @property
    def deviation(self) -> Tensor:
        """Evidence less what is usual, ``[N, D]``: negative where evidence is missing."""
        return self.evidence - self.usual

    @property
    def weaker(self) -> Tensor:
        """Share of the deviation, in absolute values, below what is usual, ``[N]`` in 0..1.

        Of images out of distribution it is most: evidence that is weak or missing, rather than
        anything that speaks for another class.
        """
        size = self.deviation.abs().sum(dim=1)
        below = (-self.deviation).clamp(min=0).sum(dim=1)
        return torch.where(size > 0, below / size.where(size > 0, 1.0), 0.0)

    @property
    def missing(self) -> Tensor:
        """Share of the deviation, in absolute values, on silent neurons, ``[N]`` in 0..1.

        It is evidence that is not there, so that no pixel can be shown for it.
        """
        size = self.deviation.abs()
        total = size.sum(dim=1)
        silent = (size * ~self.active).sum(dim=1)
        return torch.where(total > 0, silent / total.where(total > 0, 1.0), 0.0)

    def top(self, count: int = 10) -> Tensor:
        """The neurons that differ most from what is usual, ``[N, count]``, the largest first.

        Not those with the largest shares: what makes a score high is mostly evidence that is weaker
        than usual, and a neuron that is silent has no share in an energy. In the order of shares
        scores fall no faster, LINe's and the energy not even as fast as in a random one
        (docs/benchmarks.md).
        """
        order = self.deviation.abs().argsort(dim=1, descending=True, stable=True)
        return order[:, :count]

    def to_dict(self, row: int, count: int = 10) -> dict[str, Any]:
        """One image's top neurons for JSON, with their figures."""
        shares = self.shares

        def figures(neuron: int) -> dict[str, Any]:
            return {
                "neuron": neuron,
                "evidence": float(self.evidence[row, neuron]),
                "usual": float(self.usual[row, neuron]),
                "spread": float(self.spread[row, neuron]),
                "active": bool(self.active[row, neuron]),
                "share": None if shares is None else float(shares.neurons[row, neuron]),
            }

        return {
            "compared_class": int(self.classes[row]),
            "top": [figures(neuron) for neuron in self.top(count)[row].tolist()],
            "bias": {
                "evidence": float(self.bias_evidence[row]),
                "usual": float(self.usual_bias[row]),
                "share": None if shares is None else float(shares.bias[row]),
            },
            "rest": None if shares is None else float(shares.rest[row]),
            "rest_is": None if shares is None else shares.rest_is,
            "given": None if shares is None else shares.given,
            "weaker_share": float(self.weaker[row]),
            "missing_share": float(self.missing[row]),
        }


def neurons_of(detector: Detector, reference: Reference, batch: Activations) -> Neurons:
    """What the prediction and the score of N images rest on.

    Args:
        detector: fitted.
        reference: fitted beside it.
        batch: the images' activations, with what the detector requires.

    Raises:
        NotFitted: if one of them is not fitted.
        InvalidInput: if the batch is of another model or lacks what is required.
    """
    detector.check(batch)
    head = reference.fitted_head
    evidence = detector.evidence(head)(batch)
    classes = detector.compared_class(batch)
    mean, spread = (value.to(evidence) for value in (reference.mean, reference.spread))
    usual = mean[classes]
    return Neurons(
        classes=classes,
        evidence=evidence[:, :-1],
        bias_evidence=evidence[:, -1],
        usual=usual[:, :-1],
        spread=spread[classes][:, :-1],
        usual_bias=usual[:, -1],
        active=batch.features != 0,
        shares=detector.shares(batch) if detector.is_additive else None,
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Mean evidence of every neuron over two sets of images, ``[D + 1]``, the bias last.

    Attributes:
        inside: over in-distribution images.
        outside: over the others.
        difference: ``outside - inside``.
        margin: half the width of its 95 % interval, each neuron for itself (Welch's, normal): of
            100 neurons without any difference about five lie outside theirs.
    """

    inside: Tensor
    outside: Tensor
    difference: Tensor
    margin: Tensor


def compare(
    detector: Detector, head: LinearHead, inside: ActivationSource, outside: ActivationSource
) -> Comparison:
    """Mean evidence of in-distribution against other images, neuron by neuron.

    Args:
        detector: which says what counts as evidence: NERO its relevance.
        head: the classifier's.
        inside, outside: activations of both.

    Raises:
        NotEnoughImages: if there are fewer than two of one kind.

    Source: NERO (Chhetri et al., MICCAI 2025), figure 3, with intervals.
    """
    evidence = detector.evidence(head)
    means, errors = [], []
    for images in (inside, outside):
        (classes,) = gather([ClassMoments(evidence, "predicted", allow_empty=True)], images)
        pooled = classes.pooled()
        if pooled.count[0] < 2:
            raise NotEnoughImages("An interval needs two images of each kind at least, got one.")
        means.append(pooled.mean[0])
        errors.append(pooled.variance[0] / pooled.count[0])
    margin = _Z95 * (errors[0] + errors[1]).sqrt()
    return Comparison(means[0], means[1], means[1] - means[0], margin)
