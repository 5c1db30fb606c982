"""The detectors as a table, for the command line and the documentation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from neroli.detectors import class_of, create, names
from neroli.detectors.base import Detector
from neroli.views import ViewProbe


def own_names() -> list[str]:
    """The names of neroli's own detectors, not of those that programs registered."""
    return [name for name in names() if class_of(name).__module__.startswith("neroli.")]


def ready_names() -> list[str]:
    """Those of them that can be tried as they are, without hyper-parameters of the user."""
    return [name for name in own_names() if not class_of(name).example]


def example(name: str) -> Detector:
    """A detector with its defaults, or hyper-parameters to try it with.

    Raises:
        InvalidInput: if there is none of that name.
    """
    return create(name, **class_of(name).example)


def facts(name: str) -> dict[str, Any]:
    """What a detector says of itself.

    Raises:
        InvalidInput: if there is none of that name.
    """
    detector = example(name)
    paper = detector.paper
    return {
        "name": name,
        "class": type(detector).__name__,
        "measures": detector.measures,
        "paper": None if paper is None else {**asdict(paper), "url": paper.url},
        "assumes": list(detector.assumes),
        "requires": requirements(detector),
        "learns": bool(detector._learned_fields()),
        "hyperparameters": [
            {
                "name": h.name,
                "default": h.default,
                "meaning": h.meaning,
                "limits": None if h.limits is None else str(h.limits),
            }
            for h in detector.declared()
        ],
        "about": (type(detector).__doc__ or "").strip(),
    }


def requirements(detector: Detector) -> list[str]:
    """What it needs beyond features and logits, for people."""
    needs = [f"the layer {tap.layer}" for tap in detector.requires.taps]
    needs += ["the map before pooling"] * detector.requires.prepool
    views = [probe for probe in detector.requires.probes if isinstance(probe, ViewProbe)]
    if len(views) < len(detector.requires.probes):
        needs.append("the network run again for every image")
    if views:
        needs.append("the network run again for every view of an image")
    again = [layer for probe in detector.requires.probes for layer in probe.layers()]
    return list(dict.fromkeys(needs + [f"the layer {layer}" for layer in again]))


def markdown() -> str:
    """The table of all detectors in Markdown."""
    lines = [
        "| name | measures | paper | assumes | hyper-parameters |",
        "|---|---|---|---|---|",
    ]
    for name in own_names():
        detector = example(name)
        paper = detector.paper
        source = "" if paper is None else f"[{paper}]({paper.url})" if paper.url else str(paper)
        settings = ", ".join(f"`{h.name}={h.default!r}`" for h in detector.declared())
        cells = [f"`{name}`", detector.measures, source, ", ".join(detector.assumes), settings]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
