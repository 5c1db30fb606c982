"""The detectors: one file each, all with the contract in ``base``."""

import difflib
from typing import Any

from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.cadref import CADRef, CARef
from neroli.detectors.conjnorm import ConjNorm
from neroli.detectors.ddcs import DDCS
from neroli.detectors.energy import Energy
from neroli.detectors.entropy import Entropy
from neroli.detectors.feature_masking import FeatureMasking
from neroli.detectors.itp import ITP
from neroli.detectors.line import LINe
from neroli.detectors.max_logit import MaxLogit
from neroli.detectors.msp import MSP
from neroli.detectors.nac import NAC
from neroli.detectors.nero import NERO
from neroli.detectors.weiper_kld import WeiPerKLD
from neroli.errors import InvalidInput
from neroli.fitting import Learning

__all__ = [
    "DDCS",
    "ITP",
    "MSP",
    "NAC",
    "NERO",
    "CADRef",
    "CARef",
    "ConjNorm",
    "Detector",
    "Energy",
    "Entropy",
    "FeatureMasking",
    "LINe",
    "Learning",
    "MaxLogit",
    "Paper",
    "WeiPerKLD",
    "create",
    "is_registered",
    "learned",
    "names",
    "parameter",
    "register",
]

_DETECTORS: dict[str, type[Detector]] = {}


def register(detector: type[Detector]) -> type[Detector]:
    """Make a detector known by its name, so that saved guards with it can be loaded; a decorator.

    Raises:
        InvalidInput: if another detector has that name.
    """
    known = _DETECTORS.setdefault(detector.name, detector)
    if known is not detector and known.__qualname__ != detector.__qualname__:
        raise InvalidInput(f"The name {detector.name!r} is taken by {known.__qualname__}.")
    _DETECTORS[detector.name] = detector  # a class defined again, as notebooks do, replaces itself
    return detector


_SHIPPED: tuple[type[Detector], ...] = (
    NERO,
    LINe,
    MSP,
    MaxLogit,
    Energy,
    Entropy,
    CADRef,
    CARef,
    ITP,
    WeiPerKLD,
    ConjNorm,
    DDCS,
    FeatureMasking,
    NAC,
)
for _detector in _SHIPPED:
    register(_detector)


def is_registered(detector: Detector) -> bool:
    """Whether ``create`` gives detectors of this class."""
    return _DETECTORS.get(detector.name) is type(detector)


def names() -> list[str]:
    """The names ``create`` knows."""
    return list(_DETECTORS)


def create(name: str, **hyperparameters: Any) -> Detector:
    """A detector by name, as the command line and saved guards call it.

    Raises:
        InvalidInput: if the name or a hyper-parameter is unknown, or a value out of range.
    """
    if name not in _DETECTORS:
        near = difflib.get_close_matches(name, _DETECTORS, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known are {', '.join(_DETECTORS)}; import the module that registers it."
        )
        raise InvalidInput(f"There is no detector {name!r}: {hint}")
    known = _DETECTORS[name]().hyperparameters()
    unknown = sorted(hyperparameters.keys() - known.keys())
    if unknown:
        has = ", ".join(known) or "none"
        raise InvalidInput(f"{name} has no hyper-parameter {unknown[0]!r}; it has: {has}.")
    return _DETECTORS[name](**hyperparameters)
