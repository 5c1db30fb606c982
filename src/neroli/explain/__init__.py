"""Why an image was flagged: its neurons, its pixels, and examples beside it."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation, explain
    from neroli.explain.heatmap import Heatmap, of_neurons, of_prediction, propagate
    from neroli.explain.neurons import Comparison, Neurons, compare, neurons_of
    from neroli.explain.pictures import pictures_of
    from neroli.explain.propagation import Start
    from neroli.explain.reference import Reference
    from neroli.explain.report import write_report

__all__ = [
    "Comparison",
    "Explanation",
    "Heatmap",
    "Neurons",
    "Reference",
    "Start",
    "compare",
    "explain",
    "neurons_of",
    "of_neurons",
    "of_prediction",
    "pictures_of",
    "propagate",
    "write_report",
]

_HOME = {
    "explanation": ("Explanation", "explain"),
    "heatmap": ("Heatmap", "of_neurons", "of_prediction", "propagate"),
    "neurons": ("Comparison", "Neurons", "compare", "neurons_of"),
    "pictures": ("pictures_of",),
    "propagation": ("Start",),
    "reference": ("Reference",),
    "report": ("write_report",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: guards need none but the reference."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"neroli.explain.{module}"), name)
    raise AttributeError(f"module 'neroli.explain' has no attribute {name!r}")
