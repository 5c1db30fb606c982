"""An image's explanation: verdict, neurons, heat maps and examples together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neroli.errors import InvalidInput, NotFitted
from neroli.explain import wording
from neroli.explain.examples import Examples
from neroli.explain.heatmap import Heatmap, of_prediction, propagate
from neroli.explain.neurons import Neurons, neurons_of
from neroli.explain.pictures import Picture, pictures_of
from neroli.stand_in import StandIn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neroli.guard import Guard

TOP = 10
"""How many neurons are named, unless asked otherwise."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why an image was flagged, or was not.

    Attributes:
        name: what the image is called.
        picture: what the network was given, ``[H, W, 3]`` uint8.
        predicted_class: and its name, if that is known, and the network's probability of it.
        compared_name: of the class it is compared with, which may be another with NERO.
        compared_images: how many training images were predicted as that class; without any it is
            compared with all of them.
        score: with its p-value; ``threshold`` is that of its predicted class.
        false_alarm_rate: share of in-distribution images that may be flagged.
        neurons: of this one image.
        heatmap: where the predicted class was seen; of this one image. None without the network's
            own layers (see ``neroli.stand_in``).
        deviation: where the evidence is not as usual, of neurons that are active; likewise.
        examples: training images beside it.
        top: how many neurons are named.
    """

    name: str
    picture: Picture
    predicted_class: int
    predicted_name: str
    probability: float
    compared_name: str
    compared_images: int
    score: float
    p_value: float
    threshold: float
    is_ood: bool
    false_alarm_rate: float
    neurons: Neurons
    heatmap: Heatmap | None
    deviation: Heatmap | None
    examples: Examples
    top: int = TOP

    @property
    def summary(self) -> str:
        """Two plain sentences: what was predicted and how unusual it is, and what makes it so."""
        return wording.summary(self)

    @property
    def where(self) -> str:
        """Which ninth of the image holds the middle of the larger part of the deviation, in words.

        That is where evidence is weaker than usual, or where it is stronger if that is more; empty
        if the map shows nothing of it, or there is none.
        """
        if self.deviation is None:
            return ""
        below = float(self.neurons.weaker[0]) >= 0.5
        relevance = self.deviation.relevance[0]
        return wording.place((-relevance if below else relevance).clamp(min=0))

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
            "compared_images": self.compared_images,
            "score": self.score,
            "p_value": self.p_value,
            "threshold": self.threshold,
            "is_ood": self.is_ood,
            "false_alarm_rate": self.false_alarm_rate,
            "summary": self.summary,
            "neurons": self.neurons.to_dict(0, self.top),
            "heatmap": _facts(self.heatmap),
            "deviation": _facts(self.deviation),
            "examples": self.examples.to_dict(),
        }


def _facts(heatmap: Heatmap | None) -> dict[str, Any] | None:
    if heatmap is None:
        return None
    return {
        "method": heatmap.method,
        "rules": heatmap.rules,
        "reason": heatmap.reason,
        "started": float(heatmap.started[0]),
        "absorbed": float(heatmap.absorbed[0]),
    }


def _names(images: Any, count: int) -> list[str]:
    """What files are called, and the positions of other images."""
    if not isinstance(images, list | tuple):
        return [str(position) for position in range(count)]
    return [
        Path(image).name if isinstance(image, str | Path) else str(position)
        for position, image in enumerate(images)
    ]


def explain(
    guard: Guard, images: Any, names: Sequence[str] | None = None, *, top: int = TOP
) -> list[Explanation]:
    """Why images were flagged, or were not.

    Args:
        guard: fitted and calibrated.
        images: as a guard takes them; for many, call this in batches.
        names: what they are called; when left out, the names of files, or positions.
        top: how many neurons are named of each.

    Raises:
        NotFitted, NotCalibrated: if the guard is not.
        InvalidInput: if the images cannot be used, or their number is not that of the names,
            or ``top`` is below 1.
    """
    if not isinstance(top, int) or top < 1:
        raise InvalidInput(f"At least one neuron must be named, got top={top!r}.")
    if guard.reference is None:
        raise NotFitted("The guard is not fitted: there is nothing usual to compare with yet.")
    calibration, reference = guard.check_calibrated(), guard.reference
    prepared = guard.classifier.prepare(images)
    if names is not None and len(names) != len(prepared):
        raise InvalidInput(f"There are {len(names)} names for {len(prepared)} images.")
    called = [str(name) for name in (_names(images, len(prepared)) if names is None else names)]
    batch = guard.classifier(prepared, requires=guard.detector.requires)
    verdicts = guard.verdicts(batch)
    found = neurons_of(guard.detector, reference, batch)
    maps: list[Heatmap] = []
    if not isinstance(guard.classifier.model, StandIn):
        maps.append(of_prediction(guard.classifier, prepared))
        maps.append(propagate(guard.classifier, prepared, found.deviation * found.active))
    pictures = pictures_of(prepared, guard.classifier.preprocessing)
    probabilities = batch.logits.softmax(dim=1).amax(dim=1)
    thresholds = calibration.thresholds[verdicts.predicted_class]
    class_names = guard.classifier.class_names

    def named(index: int) -> str:
        return f"class {index}" if class_names is None else class_names[index]

    return [
        Explanation(
            name=called[row],
            picture=pictures[row],
            predicted_class=int(verdicts.predicted_class[row]),
            predicted_name=named(int(verdicts.predicted_class[row])),
            probability=float(probabilities[row]),
            compared_name=named(int(found.classes[row])),
            compared_images=int(reference.count[found.classes[row].cpu()]),
            score=float(verdicts.score[row]),
            p_value=float(verdicts.p_value[row]),
            threshold=float(thresholds[row]),
            is_ood=bool(verdicts.is_ood[row]),
            false_alarm_rate=calibration.promise.false_alarm_rate,
            neurons=(own := found.row(row)),
            heatmap=maps[0].row(row) if maps else None,
            deviation=maps[1].row(row) if maps else None,
            examples=reference.examples_of(own, own.top(top)[0].tolist()),
            top=top,
        )
        for row in range(len(prepared))
    ]
