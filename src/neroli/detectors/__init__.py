"""The detectors: one file each, all with the contract in ``base``."""

import difflib
from collections.abc import Sequence
from typing import Any

from neroli.detectors.about import Paper, parameter
from neroli.detectors.ash import ASHB, ASHP, ASHS
from neroli.detectors.base import Detector, learned
from neroli.detectors.cadref import CADRef, CARef
from neroli.detectors.conjnorm import ConjNorm
from neroli.detectors.cop import CoP, CoRP
from neroli.detectors.ddcs import DDCS
from neroli.detectors.dice import DICE
from neroli.detectors.energy import Energy
from neroli.detectors.ensemble import Ensemble
from neroli.detectors.entropy import Entropy
from neroli.detectors.fdbd import FDBD
from neroli.detectors.feature_masking import FeatureMasking
from neroli.detectors.feature_norm import FeatureNorm
from neroli.detectors.gen import GEN
from neroli.detectors.grad_norm import GradNorm
from neroli.detectors.gram import Gram
from neroli.detectors.itp import ITP
from neroli.detectors.kl_matching import KLMatching
from neroli.detectors.knn import KNN
from neroli.detectors.line import LINe
from neroli.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from neroli.detectors.max_logit import MaxLogit
from neroli.detectors.msp import MSP
from neroli.detectors.multi_layer_mahalanobis import MultiLayerMahalanobis
from neroli.detectors.nac import NAC, NACUE
from neroli.detectors.nap import NAP
from neroli.detectors.ncdd import NCDD
from neroli.detectors.neco import NECO
from neroli.detectors.nero import NERO
from neroli.detectors.nnguide import NNGuide
from neroli.detectors.odin import IODIN, ODIN
from neroli.detectors.openmax import OpenMax
from neroli.detectors.rank_feat import RankFeat
from neroli.detectors.react import ReAct
from neroli.detectors.regularised_pca import RegularisedPCA
from neroli.detectors.relevance_pattern import RelevanceDeficit, RelevanceDeviation
from neroli.detectors.scale import SCALE
from neroli.detectors.she import SHE
from neroli.detectors.temperature_scaled_msp import TemperatureScaledMSP
from neroli.detectors.vim import Residual, ViM
from neroli.detectors.weiper_kld import WeiPerKLD
from neroli.errors import InvalidInput
from neroli.fitting import Learning

__all__ = [
    "ASHB",
    "ASHP",
    "ASHS",
    "DDCS",
    "DEFAULT",
    "DICE",
    "FDBD",
    "GEN",
    "IODIN",
    "ITP",
    "KNN",
    "MSP",
    "NAC",
    "NACUE",
    "NAP",
    "NCDD",
    "NECO",
    "NERO",
    "ODIN",
    "SCALE",
    "SHE",
    "CADRef",
    "CARef",
    "CoP",
    "CoRP",
    "ConjNorm",
    "Detector",
    "Energy",
    "Ensemble",
    "Entropy",
    "FeatureMasking",
    "FeatureNorm",
    "GradNorm",
    "Gram",
    "KLMatching",
    "LINe",
    "Learning",
    "Mahalanobis",
    "MaxLogit",
    "MultiLayerMahalanobis",
    "NNGuide",
    "OpenMax",
    "Paper",
    "RankFeat",
    "ReAct",
    "RegularisedPCA",
    "RelativeMahalanobis",
    "RelevanceDeficit",
    "RelevanceDeviation",
    "Residual",
    "TemperatureScaledMSP",
    "ViM",
    "WeiPerKLD",
    "create",
    "is_registered",
    "learned",
    "names",
    "parameter",
    "register",
]

DEFAULT = "ensemble"
"""The detector to take where nothing speaks for another."""

_DETECTORS: dict[str, type[Detector]] = {}


def register(detector: type[Detector]) -> type[Detector]:
    """Make a detector known by its name, so that saved guards with it can be loaded; a decorator.

    Raises:
        InvalidInput: if another detector has that name.
    """
    known = _DETECTORS.setdefault(detector.name, detector)
    names = [(kind.__module__, kind.__qualname__) for kind in (known, detector)]
    if names[0] != names[1]:
        raise InvalidInput(f"The name {detector.name!r} is taken by {'.'.join(names[0])}.")
    _DETECTORS[detector.name] = detector  # a class defined again, as notebooks do, replaces itself
    return detector


_SHIPPED: tuple[type[Detector], ...] = (
    NERO,
    LINe,
    RelevanceDeviation,
    RelevanceDeficit,
    MSP,
    TemperatureScaledMSP,
    MaxLogit,
    Energy,
    Entropy,
    GEN,
    KLMatching,
    OpenMax,
    ReAct,
    DICE,
    ASHP,
    ASHB,
    ASHS,
    SCALE,
    GradNorm,
    FeatureNorm,
    FeatureMasking,
    ITP,
    DDCS,
    CADRef,
    CARef,
    Mahalanobis,
    RelativeMahalanobis,
    KNN,
    NNGuide,
    SHE,
    FDBD,
    NCDD,
    ViM,
    Residual,
    NECO,
    CoP,
    CoRP,
    RegularisedPCA,
    ConjNorm,
    WeiPerKLD,
    NAC,
    ODIN,
    IODIN,
    MultiLayerMahalanobis,
    NACUE,
    Gram,
    NAP,
    RankFeat,
    Ensemble,
)
for _detector in _SHIPPED:
    register(_detector)


def is_registered(detector: Detector) -> bool:
    """Whether ``create`` gives detectors of this class, and of all its members if it has any."""
    members: Sequence[Detector] = getattr(detector, "members", ())
    known = _DETECTORS.get(detector.name) is type(detector)
    return known and all(is_registered(member) for member in members)


def names() -> list[str]:
    """The names ``create`` knows."""
    return list(_DETECTORS)


def create(name: str, **hyperparameters: Any) -> Detector:
    """A detector by name, as the command line and saved guards call it.

    Raises:
        InvalidInput: if the name or a hyper-parameter is unknown, or a value out of range.
    """
    if not isinstance(name, str) or name not in _DETECTORS:
        near = difflib.get_close_matches(str(name).lower(), _DETECTORS, n=1)
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
