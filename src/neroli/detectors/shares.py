"""Shares: what each neuron adds to a detector's score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shares:
    """A score taken apart: ``neurons.sum(1) + bias + rest`` is the score.

    Attributes:
        neurons: what each neuron adds, ``[N, D]``; below zero, it speaks for in-distribution.
        bias: what the bias of the head adds, ``[N]``.
        rest: what belongs to no neuron, ``[N]``; zero where the method is a sum over neurons.
        rest_is: what that is, a phrase; empty where it is always zero.
        given: under which condition the parts are a sum, a phrase; empty if there is none.
    """

    neurons: Tensor
    bias: Tensor
    rest: Tensor
    rest_is: str = ""
    given: str = ""

    @property
    def score(self) -> Tensor:
        """The score, ``[N]``."""
        return self.neurons.sum(dim=1) + self.bias + self.rest


def neurons_alone(neurons: Tensor, given: str = "") -> Shares:
    """Shares of a score that is a sum over neurons ``[N, D]``, without bias or rest."""
    nothing = neurons.new_zeros(len(neurons))
    return Shares(neurons, nothing, nothing, given=given)


def energy_shares(evidence: Tensor, logits: Tensor, bias: Tensor) -> Shares:
    """Shares of ``-LSE(z)``, as ``-sum_k p_k z_k`` less the entropy of ``p = softmax(z)``.

    Args:
        evidence: ``sum_k p_k`` times what each neuron adds to logit k, ``[N, D]``.
        logits: z, ``[N, C]``.
        bias: that of the head, ``[C]``.
    """
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    return Shares(-evidence, -(p @ bias), (p * log_p).sum(dim=1), "minus the entropy of the logits")
