"""The detectors of a benchmark, each with its label and hyper-parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neroli.benchmark.results import Failed
from neroli.benchmark.schema import DetectorRow
from neroli.detectors import Detector, class_of, create
from neroli.errors import InvalidInput
from neroli.taps import NOTHING, Requirements


@dataclass(frozen=True, eq=False)
class Entry:
    """A detector that takes part.

    Args:
        label: what it is called in tables; unique.
        detector: not fitted.
        tuned: whether its hyper-parameters come from the search without OOD data.
        network_ratio: how long the network takes with what it needs, beside a plain run.
    """

    label: str
    detector: Detector
    tuned: bool = False
    network_ratio: float = 1.0

    @property
    def identity(self) -> str:
        """What tells it from others with the same images."""
        settings = json.dumps(self.detector.hyperparameters(), sort_keys=True, default=str)
        return f"{self.detector.name} {settings}"


def entries_of(
    rows: Sequence[DetectorRow], layers: Sequence[str] = ()
) -> tuple[list[Entry], list[Failed]]:
    """The detectors of some rows of a suite, and those that cannot be made for this model.

    Args:
        rows: names, labels and settings.
        layers: of the model, for detectors of layers whose settings name none.
    """
    entries, failures = [], []
    for row in rows:
        try:
            entries.append(Entry(row.title, _with_layers(row.name, row.settings, layers)))
        except InvalidInput as error:
            failures.append(Failed(label=row.title, reason=str(error)))
    return entries, failures


def needed(entries: Sequence[Entry]) -> Requirements:
    """What several detectors need, to be fitted and to score."""
    requires = NOTHING
    for entry in entries:
        requires = requires | entry.detector.requires | entry.detector.requires_to_fit
    return requires


def _with_layers(name: str, settings: Mapping[str, Any], layers: Sequence[str]) -> Detector:
    """A detector, of the model's layers if its usual ones are none of these and none are given."""
    defaults = {each.name: each.default for each in class_of(name).declared()}
    others = bool(layers) and not set(defaults.get("layers", ())) <= set(layers)
    return create(name, **{**({"layers": tuple(layers)} if others else {}), **settings})
