"""The detectors of a benchmark, each with its label and hyper-parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neroli.benchmark.results import Failed
from neroli.detectors import Detector, catalogue, create
from neroli.errors import InvalidInput
from neroli.taps import NOTHING, Requirements

Group = Literal["all", "one-pass", "head"]
"""Every detector; those for which one plain run of the network is enough; those of the head."""
GROUPS: tuple[Group, ...] = ("all", "one-pass", "head")


@dataclass(frozen=True, eq=False)
class Entry:
    """A detector that takes part.

    Args:
        label: what it is called in tables; unique.
        detector: not fitted.
        tuned: whether its hyper-parameters come from the search without OOD data.
    """

    label: str
    detector: Detector
    tuned: bool = False

    @property
    def identity(self) -> str:
        """What tells it from others with the same images."""
        settings = json.dumps(self.detector.hyperparameters(), sort_keys=True, default=str)
        return f"{self.detector.name} {settings}"


def entries_of(
    chosen: Group | Sequence[str],
    settings: Sequence[tuple[str, str, Mapping[str, Any]]] = (),
    layers: Sequence[str] = (),
) -> tuple[list[Entry], list[Failed]]:
    """The detectors that were chosen, and those of a group that cannot be made for this model.

    Args:
        chosen: a group, or names.
        settings: further ones, each (label, name, hyper-parameters); one whose label is a name
            takes the place of that detector.
        layers: of the model, for detectors of layers whose settings name none.

    Raises:
        InvalidInput: if a name or setting is unknown, or two have one label.
    """
    entries: dict[str, Entry] = {}
    failures = []
    replaced = {label for label, _, _ in settings}
    for name in catalogue.own_names() if chosen in GROUPS else chosen:
        if name in entries:
            raise InvalidInput(f"The detector {name!r} is named twice: give the other a label.")
        if name in replaced:
            continue
        try:
            detector = _with_layers(name, {}, layers)
        except InvalidInput as error:
            if chosen not in GROUPS:
                raise
            failures.append(Failed(label=name, reason=str(error)))
            continue
        if _is_in(detector, chosen):
            entries[name] = Entry(name, detector)
    for label, name, given in settings:
        if label in entries:
            raise InvalidInput(f"Two detectors are labelled {label!r}: give one another label.")
        entries[label] = Entry(label, _with_layers(name, given, layers))
    if not entries:
        raise InvalidInput("No detector is chosen: name at least one, or 'head'.")
    return list(entries.values()), failures


def needed(detectors: Sequence[Detector]) -> Requirements:
    """What several detectors need, to be fitted and to score."""
    requires = NOTHING
    for detector in detectors:
        requires = requires | detector.requires | detector.requires_to_fit
    return requires


def _with_layers(name: str, settings: Mapping[str, Any], layers: Sequence[str]) -> Detector:
    """A detector, of the model's layers if its usual ones are none of these and none are given."""
    usual = create(name).hyperparameters().get("layers", ())
    others = bool(layers) and not set(usual) <= set(layers)
    return create(name, **{**({"layers": tuple(layers)} if others else {}), **settings})


def _is_in(detector: Detector, chosen: Group | Sequence[str]) -> bool:
    """Whether a detector is of a group; of a list it is."""
    if chosen == "head":
        return detector.requires == NOTHING
    return chosen != "one-pass" or not detector.requires.probes
