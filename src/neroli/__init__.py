"""neroli: know when an image classifier is out of its depth, and see why."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neroli import metrics
    from neroli.activations import Activations
    from neroli.classifier import Classifier
    from neroli.data.preprocessing import Preprocessing
    from neroli.extraction import extract
    from neroli.fitting import fit
    from neroli.guard import Guard
    from neroli.head import LinearHead
    from neroli.models import load_classifier
    from neroli.models.onnx_export import export_onnx
    from neroli.store import ActivationStore

__all__ = [
    "ActivationStore",
    "Activations",
    "Classifier",
    "Guard",
    "LinearHead",
    "Preprocessing",
    "export_onnx",
    "extract",
    "fit",
    "load_classifier",
    "metrics",
]

_HOME = {
    "ActivationStore": "neroli.store",
    "Activations": "neroli.activations",
    "Classifier": "neroli.classifier",
    "Guard": "neroli.guard",
    "LinearHead": "neroli.head",
    "Preprocessing": "neroli.data.preprocessing",
    "export_onnx": "neroli.models.onnx_export",
    "extract": "neroli.extraction",
    "fit": "neroli.fitting",
    "load_classifier": "neroli.models",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``neroli --help`` needs no torch."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in ("metrics",):
        return importlib.import_module(f"neroli.{name}")
    raise AttributeError(f"module 'neroli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
