"""Neuron-level relevance at the linear head, in closed form (layer-wise relevance propagation)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.errors import InvalidInput
from neroli.head import LinearHead


def relevance(batch: Activations, head: LinearHead, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """How much each penultimate neuron, and the bias, contributed to the predicted probabilities.

    With ``p = softmax(z)``: ``r_j = a_j sum_k p_k w_kj / z_k``, ``r_bias = sum_k p_k b_k / z_k``.
    LRP-0 through the head, started from the softmax vector. At ``eps = 0`` and without zero logits
    ``relevance.sum(1) + bias_relevance`` is one. A positive ``eps`` steadies terms with a logit
    near zero by the signed stabiliser ``z + eps sign(z)`` (``sign(0) = +1``). At ``eps = 0`` the
    term of a logit that is zero is undefined and left out, as is that of one so small that it would
    overflow (below the root of the dtype's smallest number).

    Args:
        batch: activations of N images.
        head: the linear head of the classifier that yielded them.
        eps: the stabiliser, in units of the logits.

    Returns:
        relevance ``[N, D]`` and bias_relevance ``[N]``, in the features' dtype.

    Raises:
        InvalidInput: if ``eps`` is negative.

    Source: NERO (Chhetri et al., MICCAI 2025, arXiv 2506.15404), as its authors' program computes
    it; the stabiliser is the usual one of LRP-epsilon.
    """
    if not 0 <= eps <= 1e30:
        raise InvalidInput(f"eps must be zero or a positive number, got {eps}.")
    head = head.like(batch.features)
    logits = batch.logits
    stabilised = logits + torch.where(logits < 0, -eps, eps) if eps else logits
    share = logits.softmax(dim=1) / stabilised
    if not eps:
        smallest = torch.finfo(logits.dtype).tiny ** 0.5
        share = share.masked_fill(logits.abs() < smallest, 0.0)
    return batch.features * (share @ head.weight), share @ head.bias


@dataclass(frozen=True)
class ClassEvidence:
    """What neurons, and in the last column the bias, add to a class's logit, ``[N, D + 1]``.

    ``W_cj a_j`` and ``b_c`` of the predicted class c, in units of logits: a quantity for
    statistics.

    Args:
        head: the linear head of the classifier.
        own: of the true class c, where that is known.
    """

    head: LinearHead
    own: bool = False

    def __call__(self, batch: Activations) -> Tensor:
        head = self.head.like(batch.features)
        labels = batch.predictions if batch.labels is None or not self.own else batch.labels
        neurons = head.weight[labels] * batch.features
        return torch.cat([neurons, head.bias[labels, None]], dim=1)


@dataclass(frozen=True)
class HeadRelevance:
    """Relevance with the bias as last column, ``[N, D + 1]``: a quantity for statistics."""

    head: LinearHead
    eps: float = 0.0

    def __call__(self, batch: Activations) -> Tensor:
        neurons, bias = relevance(batch, self.head, self.eps)
        return torch.cat([neurons, bias[:, None]], dim=1)
