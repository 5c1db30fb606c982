"""The most and the least OOD images of every set, explained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from neroli.benchmark.entries import Entry
from neroli.benchmark.results import Row
from neroli.benchmark.scores import Scores
from neroli.benchmark.stores import OOD, Stores, readable_positions
from neroli.calibration import Promise
from neroli.classifier import Classifier
from neroli.errors import NeroliWarning
from neroli.explain.choice import EXPLAIN_BATCH
from neroli.explain.explanation import Explanation, explain
from neroli.guard import Guard


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of one set with their explanations.

    Attributes:
        set_name: of the set.
        detector: the label of the detector that scored them.
        most: the most OOD images, the highest score first.
        least: the least OOD ones, the lowest score first.
    """

    set_name: str
    detector: str
    most: list[Explanation]
    least: list[Explanation]


def explaining(rows: Sequence[Row], entries: Sequence[Entry]) -> Entry:
    """The detector that explanations are by: the best whose score is a sum over neurons, if any."""
    by_label = {entry.label: entry for entry in entries}
    ordered = [by_label[row.label] for row in rows]
    return next((entry for entry in ordered if entry.detector.is_additive), ordered[0])


def galleries_of(
    entry: Entry,
    scores: Scores,
    stores: Stores,
    classifier: Classifier,
    promise: Promise,
    count: int,
) -> list[Gallery]:
    """The galleries of the ID test images and of every OOD set.

    The threshold comes from the calibration images, or else from the test images.

    Args:
        entry: the detector.
        scores: its scores.
        stores: of the sets.
        classifier: the model.
        promise: of the threshold.
        count: how many images of each end.

    Raises:
        NeroliError: if no guard can be made of these images.
    """
    guard = Guard(classifier, entry.detector)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeroliWarning)  # the benchmark has said so itself
        guard.fit(stores.of["train"])
        guard.calibrate(
            stores.of.get("calibration", stores.of["test"]),
            promise.false_alarm_rate,
            guarantee=promise.guarantee,
            confidence=promise.confidence,
        )
    galleries = []
    for name in ["test", *(name for name in stores.of if name.startswith(OOD))]:
        order = scores.sets[name].argsort(stable=True)
        galleries.append(
            Gallery(
                name.removeprefix(OOD),
                entry.label,
                _explained(guard, stores, name, order.flip(0)[:count]),
                _explained(guard, stores, name, order[:count]),
            )
        )
    return galleries


def _explained(guard: Guard, stores: Stores, name: str, rows: Tensor) -> list[Explanation]:
    """The images in some rows of a store, explained in this order."""
    pictures = stores.pictures[name]
    positions = readable_positions(pictures, stores.of[name])
    chosen = pictures.unlabelled().subset([positions[row] for row in rows.tolist()])
    classifier = guard.classifier
    found: list[Explanation] = []
    for batch in chosen.batches(classifier.preprocessing, EXPLAIN_BATCH, 0, classifier.input_shape):
        if len(batch.images):  # a file may have gone since it was scored
            found += explain(guard, batch.images, list(batch.names))
    return found
