"""A search for hyper-parameters that uses no OOD data.

OOD data are stood in for by classes left out in turn and by corrupted images. What is searched, the
six detectors whose hyper-parameters matter most and a few values of each around the published ones,
was settled from the papers before any result of the search was seen on OOD data. (LINe's default is
neroli's, and had been chosen on OOD sets of CIFAR-10 networks: see there.)

The published default stays unless another setting beats it by more than noise: by ``MARGIN`` and by
``ERRORS`` standard errors of the difference. The error over classes left out is that of the paired
differences in each fold, that of corrupted images DeLong's; of all settings that pass, the one with
the highest objective is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from neroli.activations import ActivationSource
from neroli.benchmark.evidence import Evidence, evidence_of
from neroli.benchmark.results import Failed, Trial, Tuning
from neroli.detectors import create
from neroli.errors import InvalidInput
from neroli.head import LinearHead

MARGIN = 0.002
"""A smaller gain in the objective, mean AUROC as a fraction, is not worth leaving the default."""

ERRORS = 2.0
"""How many standard errors a gain must exceed: about 95 % one by one."""


@dataclass(frozen=True)
class OfFeatures:
    """A share of the network's features, for what papers state as a number for one width."""

    share: float


def _grid(**values: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """The default, then each hyper-parameter varied alone."""
    return ({}, *({name: value} for name, options in values.items() for value in options))


GRIDS: Mapping[str, tuple[Mapping[str, Any], ...]] = MappingProxyType(
    {
        "react": _grid(percentile=(70.0, 80.0, 85.0, 95.0, 99.0)),
        "dice": _grid(percentile=(10.0, 30.0, 50.0, 70.0, 80.0, 95.0)),
        "line": (
            {},
            *(
                {"weight_percentile": weights, "activation_percentile": neurons}
                for weights in (10.0, 50.0, 90.0)
                for neurons in (10.0, 50.0, 90.0)
                if (weights, neurons) != (90.0, 10.0)  # the default
            ),
        ),
        "ash_s": _grid(percentile=(30.0, 50.0, 65.0, 80.0, 85.0, 95.0)),
        "knn": _grid(k=(1, 5, 10, 20, 100, 200, 500)),
        "nero": (
            *_grid(
                low_relevance_norm=(False,),
                bias_term=(False,),
                low_relevance_neurons=(OfFeatures(0.15), OfFeatures(0.5), OfFeatures(0.75)),
                components=(OfFeatures(1 / 3), OfFeatures(1.0)),
            ),
            {"low_relevance_norm": False, "bias_term": False},
        ),
    }
)
"""By detector the settings that are tried, as they differ from the published default, the first."""


def grid(name: str, num_features: int) -> list[dict[str, Any]]:
    """The settings tried of a detector on a network of so many features, without repetitions.

    Raises:
        InvalidInput: if there is no grid for the detector.
    """
    if name not in GRIDS:
        raise InvalidInput(
            f"There is nothing to tune of {name!r}: known are {', '.join(map(repr, GRIDS))}."
        )
    found: list[dict[str, Any]] = []
    for settings in GRIDS[name]:
        values = {key: _value(value, num_features) for key, value in settings.items()}
        if values not in found:
            found.append(values)
    return found


def tune(
    names: Sequence[str],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
    corrupted: ActivationSource | None,
    *,
    seed: int = 0,
) -> list[Tuning]:
    """Search the hyper-parameters of some detectors, all trials in the same passes of each fold.

    The objective of a trial is the mean of its AUROC over classes left out and of that of corrupted
    against clean held-out images. Where there are fewer than three classes or no labels, corrupted
    images decide alone.

    Args:
        names: of detectors in ``GRIDS``.
        train: ID training images.
        head: of the network.
        held_out: ID images that neither the classifier nor a detector was trained on.
        corrupted: such images corrupted, see ``neroli.data.corruptions``; None if there are none.
        seed: of which classes are left out together, where there are many.

    Returns:
        the search of each detector.

    Raises:
        InvalidInput: if there is no grid for a detector.
        NotEnoughImages: if there is nothing to stand in for OOD data.
    """
    plan = [
        (name, settings)
        for name in dict.fromkeys(names)
        for settings in grid(name, head.num_features)
    ]
    detectors = [create(name, **settings) for name, settings in plan]
    found = evidence_of(detectors, train, head, held_out, corrupted, seed=seed)
    tried: dict[str, list[_Tried | Failed]] = {name: [] for name in names}
    for (name, settings), evidence in zip(plan, found, strict=True):
        tried[name].append(_outcome(name, settings, evidence))
    return [_tuning(name, outcomes) for name, outcomes in tried.items()]


@dataclass(frozen=True, eq=False)
class _Tried:
    """What came of one choice of settings."""

    settings: dict[str, Any]
    evidence: Evidence

    def trial(self) -> Trial:
        left_out, corrupted = self.evidence.on_left_out(), self.evidence.on_corrupted()
        return Trial(
            settings=self.settings,
            left_out=None if left_out is None else left_out.value,
            corrupted=None if corrupted is None else corrupted.value,
        )


def _outcome(name: str, settings: dict[str, Any], evidence: Evidence | str) -> _Tried | Failed:
    if isinstance(evidence, str):
        said = ", ".join(f"{key}={value}" for key, value in settings.items())
        return Failed(label=f"{name} ({said or 'default'})", reason=evidence)
    return _Tried(settings, evidence)


def _tuning(name: str, outcomes: Sequence[_Tried | Failed]) -> Tuning:
    """The choice among the outcomes, of which the first is of the default."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    default = outcomes[0]
    if isinstance(default, Failed):
        return Tuning(detector=name, trials=[], chosen={}, failures=failures)
    tried = [(each, each.trial()) for each in outcomes if isinstance(each, _Tried)]
    usual = tried[0][1]
    chosen = usual
    for each, trial in tried[1:]:
        gain = trial.objective - usual.objective
        error = each.evidence.gain_over(default.evidence).error
        sure = gain > max(MARGIN, ERRORS * error)
        if sure and trial.objective > chosen.objective:
            chosen = trial
    return Tuning(
        detector=name,
        trials=[trial for _, trial in tried],
        chosen=chosen.settings,
        failures=failures,
    )


def _value(value: Any, num_features: int) -> Any:
    """A value of the grid for a network of so many features."""
    return max(1, int(value.share * num_features)) if isinstance(value, OfFeatures) else value
