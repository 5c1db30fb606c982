"""An explanation in words: two sentences for people who know neither neurons nor p-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation
    from neroli.explain.neurons import Neurons

_NAMED = 3
"""How many neurons the summary names."""


def summary(explanation: Explanation) -> str:
    """What was predicted and how unusual that is, and what makes it so."""
    return f"{_verdict(explanation)} {_reason(explanation)}"


def place(relevance: Tensor) -> str:
    """Which ninth of the image holds the middle of a heat map ``[H, W]``; empty if it is blank."""
    size = relevance.abs().double().cpu()
    total = float(size.sum())
    if total == 0:
        return ""
    words = []
    for axis, names in ((1, ("upper", "middle", "lower")), (0, ("left", "middle", "right"))):
        along = size.sum(dim=axis)
        centres = (torch.arange(len(along), dtype=torch.float64) + 0.5) / len(along)
        middle = float((along * centres).sum()) / total
        words.append(names[min(2, int(3 * middle + 1e-9))])
    return words[0] if words[0] == words[1] else " ".join(words)


def probability(value: float) -> str:
    """A probability, without calling what is nearly certain certain."""
    if value > 0.995:
        return "over 0.99"
    return "below 0.01" if value < 0.005 else f"{value:.2f}"


def percentage(share: float) -> str:
    """A share in 0..1, without calling little nothing or much everything."""
    if 0 < share < 0.001:
        return "less than 0.1%"
    if 0.995 <= share < 1:
        return "over 99%"
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def beside(explanation: Explanation) -> str:
    """What the image is compared with: what is usual for this."""
    if explanation.compared_images:
        return explanation.compared_name
    return f"all classes (no training image was predicted {explanation.compared_name})"


def _verdict(explanation: Explanation) -> str:
    usual = percentage(explanation.p_value)
    usual = usual if usual.startswith(("less", "over")) else f"at most about {usual}"
    return (
        f"{'Flagged as out of distribution' if explanation.is_ood else 'Not flagged'}: it is "
        f"predicted {explanation.predicted_name} with probability "
        f"{probability(explanation.probability)}, {'but' if explanation.is_ood else 'and'} its "
        f"score is {'above' if explanation.is_ood else 'not above'} the threshold, which allows at "
        f"most {100 * explanation.false_alarm_rate:.3g}% false alarms ({usual} of in-distribution "
        "images score as high)."
    )


def _reason(explanation: Explanation) -> str:
    neurons = explanation.neurons
    compared = beside(explanation)
    if not float(neurons.deviation[0].abs().sum()):
        return f"No neuron differs from what is usual for {compared}."
    if explanation.compared_images and explanation.compared_name != explanation.predicted_name:
        compared += " (not the predicted class, but the one whose usual pattern is nearest)"
    return f"{_leading(neurons, compared)}; {_seen(neurons, explanation.where)}."


def _leading(neurons: Neurons, compared: str) -> str:
    """The neurons that differ most, and how much they do."""
    size = neurons.deviation[0].abs()
    top = [neuron for neuron in neurons.top(_NAMED)[0].tolist() if float(size[neuron])]
    part = percentage(float(size[top].sum() / size.sum()))
    verb = "makes" if len(top) == 1 else "make"
    return f"{_listed(top)} {verb} up {part} of what differs from the usual for {compared}"


def _seen(neurons: Neurons, where: str) -> str:
    """Whether evidence is weaker or stronger than usual, and where in the image."""
    weaker, missing = float(neurons.weaker[0]), float(neurons.missing[0])
    share, kind = (weaker, "weaker") if weaker >= 0.5 else (1 - weaker, "stronger")
    text = f"{percentage(share)} of it is evidence {kind} than usual"
    if missing == 1:
        return f"{text}, all of it in neurons silent here, which no pixel can show"
    if missing >= 0.005:
        text += f" ({percentage(missing)} lies in neurons silent here, which no pixel can show)"
    return f"{text}, centred in the {where} of the image" if where else text


def _listed(neurons: Sequence[int]) -> str:
    if len(neurons) == 1:
        return f"Neuron {neurons[0]}"
    return f"Neurons {', '.join(map(str, neurons[:-1]))} and {neurons[-1]}"
