"""Shares: what each neuron adds to a detector's score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from neroli.head import LinearHead


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

    def row(self, index: int) -> Shares:
        """Of one image alone, N = 1."""
        rows = slice(index, index + 1)
        return Shares(
            self.neurons[rows], self.bias[rows], self.rest[rows], self.rest_is, self.given
        )

    @property
    def score(self) -> Tensor:
        """The score, ``[N]``."""
        return self.neurons.sum(dim=1) + self.bias + self.rest


def neurons_alone(neurons: Tensor, given: str = "") -> Shares:
    """Shares of a score that is a sum over neurons ``[N, D]``, without bias or rest."""
    nothing = neurons.new_zeros(len(neurons))
    return Shares(neurons, nothing, nothing, given=given)


ENTROPY = "minus the entropy of the probabilities"


def energy_shares(features: Tensor, head: LinearHead, temperature: float = 1.0) -> Shares:
    """Shares of ``-T LSE(z / T) = -sum_k p_k z_k - T H(p)``, where ``p = softmax(z / T)``.

    Args:
        features: ``[N, D]``.
        head: which gives the logits z of them.
        temperature: T.
    """
    log_p = (head(features) / temperature).log_softmax(dim=1)
    p = log_p.exp()
    entropy = -temperature * (p * log_p).sum(dim=1)
    return Shares(-(p @ head.weight) * features, -(p @ head.bias), -entropy, ENTROPY)
