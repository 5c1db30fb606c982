"""An image's explanation: verdict, neurons, heat maps and examples together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from neroli.errors import InvalidInput, NotFitted
from neroli.explain.examples import Examples
from neroli.explain.heatmap import Heatmap, of_prediction, propagate
from neroli.explain.neurons import Neurons, neurons_of
from neroli.explain.pictures import Picture, pictures_of

if TYPE_CHECKING:
    from neroli.guard import Guard

TOP = 10
"""How many neurons are named."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why an image was flagged, or was not.

    Attributes:
        name: what the image is called.
        picture: what the network was given, ``[H, W, 3]`` uint8.
        predicted_class: and its name, if that is known, and the network's probability of it.
        compared_name: of the class it is compared with, which may be another with NERO.
        score: with its p-value; ``threshold`` is that of its predicted class.
        false_alarm_rate: share of in-distribution images that may be flagged.
        neurons: of this one image.
        heatmap: where the predicted class was seen; of this one image.
        deviation: where the evidence is not as usual, of neurons that are active; of this one.
        examples: training images beside it.
    """

    name: str
    picture: Picture
    predicted_class: int
    predicted_name: str
    probability: float
    compared_name: str
    score: float
    p_value: float
    threshold: float
    is_ood: bool
    false_alarm_rate: float
    neurons: Neurons
    heatmap: Heatmap
    deviation: Heatmap
    examples: Examples

    @property
    def summary(self) -> str:
        """Two plain sentences: what was predicted and how unusual it is, and what makes it so."""
        verdict = "is flagged" if self.is_ood else "is not flagged"
        compared = (
            ""
            if self.compared_name == self.predicted_name
            else f" (compared with {self.compared_name})"
        )
        top = self.neurons.top(3)[0].tolist()
        named = ", ".join(map(str, top[:-1])) + f" and {top[-1]}" if len(top) > 1 else str(top[0])
        lacking = float(self.neurons.missing[0])
        return (
            f"Predicted {self.predicted_name} with probability {self.probability:.2f}{compared}; "
            f"about {self.p_value:.1%} of in-distribution images score as high: it {verdict} "
            f"at a false-alarm rate of {self.false_alarm_rate:.0%}. "
            f"Neurons {named} {self._of_the_score(top)}; {lacking:.0%} of the deviation is "
            f"evidence that is missing, the rest is seen mostly in the {self.where} of the image."
        )

    def _of_the_score(self, top: Sequence[int]) -> str:
        shares = self.neurons.shares
        if shares is None:
            return "differ most from what is usual for that class"
        added = shares.neurons[0].clamp(min=0)
        total = float(added.sum())
        part = float(added[list(top)].sum()) / total if total > 0 else 0.0
        return f"make up {part:.0%} of what neurons add to the score"

    @property
    def where(self) -> str:
        """Which third of the image holds the middle of the deviation, in words."""
        size = self.deviation.relevance[0].abs().double().cpu()
        total = float(size.sum())
        if total == 0:
            return "middle"
        words = []
        for axis, names in ((1, ("upper", "", "lower")), (0, ("left", "", "right"))):
            along = size.sum(dim=axis)
            middle = float((along * torch.arange(len(along))).sum()) / total / len(along)
            words.append(names[min(2, int(3 * middle + 0.5 / len(along)))])
        return " ".join(word for word in words if word) or "middle"

    def figure(self) -> Figure:
        """The explanation as a matplotlib figure: picture, both heat maps, neurons, examples."""
        from neroli.explain.figure import drawn

        return drawn(self)

    def to_dict(self) -> dict[str, Any]:
        """The explanation for JSON, without the pictures."""
        return {
            "name": self.name,
            "predicted_class": self.predicted_class,
            "predicted_name": self.predicted_name,
            "probability": self.probability,
            "compared_name": self.compared_name,
            "score": self.score,
            "p_value": self.p_value,
            "threshold": self.threshold,
            "is_ood": self.is_ood,
            "false_alarm_rate": self.false_alarm_rate,
            "summary": self.summary,
            "neurons": self.neurons.to_dict(0, TOP),
            "heatmap": _facts(self.heatmap),
            "deviation": _facts(self.deviation),
            "examples": self.examples.to_dict(),
        }


def _facts(heatmap: Heatmap) -> dict[str, Any]:
    return {
        "method": heatmap.method,
        "rules": heatmap.rules,
        "reason": heatmap.reason,
        "started": float(heatmap.started[0]),
        "absorbed": float(heatmap.absorbed[0]),
    }


def explain(guard: Guard, images: Any, names: Sequence[str] | None = None) -> list[Explanation]:
    """Why images were flagged, or were not.

    Args:
        guard: fitted and calibrated.
        images: as a guard takes them; for many, call this in batches.
        names: what they are called; their positions when left out.

    Raises:
        NotFitted, NotCalibrated: if the guard is not.
        InvalidInput: if the images cannot be used, or their number is not that of the names.
    """
    if guard.reference is None:
        raise NotFitted("The guard is not fitted: there is nothing usual to compare with yet.")
    calibration, reference = guard.check_calibrated(), guard.reference
    prepared = guard.classifier.prepare(images)
    if names is not None and len(names) != len(prepared):
        raise InvalidInput(f"There are {len(names)} names for {len(prepared)} images.")
    batch = guard.classifier(prepared, requires=guard.detector.requires)
    verdicts = guard.verdicts(batch)
    found = neurons_of(guard.detector, reference, batch)
    prediction = of_prediction(guard.classifier, prepared)
    deviation = propagate(guard.classifier, prepared, found.deviation * found.active)
    pictures = pictures_of(prepared, guard.classifier.preprocessing)
    probabilities = batch.logits.softmax(dim=1).amax(dim=1)
    thresholds = calibration.thresholds[verdicts.predicted_class]
    class_names = guard.classifier.class_names

    def named(index: int) -> str:
        return f"class {index}" if class_names is None else class_names[index]

    return [
        Explanation(
            name=str(row) if names is None else names[row],
            picture=pictures[row],
            predicted_class=int(verdicts.predicted_class[row]),
            predicted_name=named(int(verdicts.predicted_class[row])),
            probability=float(probabilities[row]),
            compared_name=named(int(found.classes[row])),
            score=float(verdicts.score[row]),
            p_value=float(verdicts.p_value[row]),
            threshold=float(thresholds[row]),
            is_ood=bool(verdicts.is_ood[row]),
            false_alarm_rate=calibration.promise.false_alarm_rate,
            neurons=(own := found.row(row)),
            heatmap=prediction.row(row),
            deviation=deviation.row(row),
            examples=reference.examples_of(own, own.top(TOP)[0].tolist()),
        )
        for row in range(len(prepared))
    ]
