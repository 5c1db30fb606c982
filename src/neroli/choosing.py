"""Which detector to take for a classifier, without any OOD image.

OOD images are stood in for by classes left out in turn and by corrupted held-out images; the
objective of a detector is the mean of its AUROC on either (``neroli.benchmark.evidence``). When
another than the default is recommended is said in ``neroli.recommending``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from neroli.activations import ActivationSource
from neroli.agreement import label_agreement
from neroli.benchmark.evidence import Evidence, Measured, evidence_of, holm, mean_of, measured_auroc
from neroli.benchmark.proxies import Scores
from neroli.benchmark.results import Estimate, Failed
from neroli.benchmark.schema import GROUPS, group
from neroli.choice import Choice, Gain, OnStandIns, Ranked
from neroli.detectors import DEFAULT, Detector, create
from neroli.errors import InvalidInput
from neroli.head import LinearHead
from neroli.metrics import fpr95
from neroli.recommending import LEVEL, remarks, verdict
from neroli.separability import separability_warnings, training_sample

SLOW = ("weiper_kld", "itp")
"""Left out unless asked for: of many classes they take minutes, times the number of folds."""


def detectors_named(text: str | None) -> list[str]:
    """The names of the detectors to compare.

    Args:
        text: a group of detectors ("all", "one-pass", "head"), or names with commas between; None
            for those of features and logits that are quick.

    Raises:
        InvalidInput: if there is no such detector, or one is named twice.
    """
    if text is None:
        return [name for name in group("head") if name not in SLOW]
    if text in GROUPS:
        return group(text)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"{text!r} names no detector: give names with commas between.")
    _made(names)
    return names


def choose(
    head: LinearHead,
    train: ActivationSource,
    held_out: ActivationSource,
    corrupted: ActivationSource | None = None,
    detectors: Sequence[str | Detector] | None = None,
    *,
    default: str | Detector = DEFAULT,
    seed: int = 0,
) -> Choice:
    """Rank detectors without OOD data and recommend one, or the default.

    Args:
        head: of the network.
        train: ID training images; classes are left out only if these and ``held_out`` have labels
            of three classes or more.
        held_out: ID images that neither the classifier nor a detector was trained on.
        corrupted: such images corrupted, see ``neroli.data.corruptions``; None if there are none.
        detectors: by name or made; those of features and logits that are quick when left out. The
            default takes part in any case.
        default: what stands unless another is surely better.
        seed: of which classes are left out together, and which training images are scored.

    Raises:
        NotEnoughImages: if there is nothing to stand in for OOD data, or no image of a kind.
        InvalidInput: if a detector is unknown or named twice, or all of them fail.
    """
    wanted = _made(detectors_named(None) if detectors is None else detectors)
    usual = _made([default])
    (usual_name,) = usual
    compared = {**({} if usual_name in wanted else usual), **wanted}
    sources = [source for source in (held_out, corrupted) if source is not None]
    lacking = {name: _lacking(each, train, sources) for name, each in compared.items()}
    able = {name: each for name, each in compared.items() if lacking[name] is None}
    evidence = evidence_of(
        list(able.values()),
        train,
        head,
        held_out,
        corrupted,
        seed=seed,
        some_training=training_sample(train, seed),
    )
    outcomes = lacking | dict(zip(able, evidence, strict=True))
    found = {name: each for name, each in outcomes.items() if isinstance(each, Evidence)}
    failures = [
        Failed(label=name, reason=each) for name, each in outcomes.items() if isinstance(each, str)
    ]
    if not found:
        raise InvalidInput(f"No detector could be used: {failures[0].label} {failures[0].reason}")
    ranked = _ranked(found, usual_name)
    recommended, reason = verdict(ranked, usual_name, failures)
    folds = len(next(iter(found.values())).left_out)
    separable = {name: measured_auroc(_known(each.training)) for name, each in found.items()}
    return Choice(
        recommended=recommended,
        default=usual_name,
        reason=reason,
        alike=[each.detector for each in ranked if each.like_best],
        ranked=ranked,
        failures=failures,
        warnings=separability_warnings(separable, (_accuracy(train), _accuracy(held_out))),
        remarks=remarks(ranked, head, train, held_out, corrupted, folds),
        training_images=len(train),
        held_out_images=len(held_out),
        corrupted_images=0 if corrupted is None else len(corrupted),
        folds=folds,
        seed=seed,
    )


def _made(detectors: Sequence[str | Detector]) -> dict[str, Detector]:
    """Detectors by name; raises InvalidInput if there is none, or one twice."""
    if isinstance(detectors, str) or not detectors:
        raise InvalidInput(f"Name the detectors to compare in a list, got {detectors!r}.")
    made: dict[str, Detector] = {}
    for each in detectors:
        detector = create(each) if isinstance(each, str) else each
        if detector.name in made:
            raise InvalidInput(f"The detector {detector.name!r} is named twice.")
        made[detector.name] = detector
    return made


def _lacking(
    detector: Detector, train: ActivationSource, others: Sequence[ActivationSource]
) -> str | None:
    """Which activations a detector would need that are not there, in a sentence."""
    for requires, source in (
        (detector.requires_to_fit, train),
        *((detector.requires, source) for source in others),
    ):
        try:
            for batch in source.batches(1):
                requires.check(batch)
                break
        except InvalidInput as error:
            return str(error)
    return None


def _ranked(found: Mapping[str, Evidence], default: str) -> list[Ranked]:
    """All detectors with evidence, the best first; of equal ones the default, then by name."""
    objectives = {name: each.objective() for name, each in found.items()}
    names = sorted(found, key=lambda name: (-objectives[name].value, name != default, name))
    gains = _gains(found, default) if default in found else {}
    alike = _like(found, names[0])
    return [
        Ranked(
            rank=place + 1,
            detector=name,
            left_out=_on_left_out(found[name]),
            corrupted=_on_corrupted(found[name]),
            objective=_estimate(objectives[name]),
            gain=gains.get(name),
            like_best=name in alike,
            train_test=_estimate(measured_auroc(_known(found[name].training))),
        )
        for place, name in enumerate(names)
    ]


def _gains(found: Mapping[str, Evidence], default: str) -> dict[str, Gain]:
    """What every other detector gains over the default."""
    usual = found[default]
    names = [name for name in found if name != default]
    by_kind = [found[name].gains_over(usual) for name in names]
    chances = holm([max(each.chance() for each in kinds.values()) for kinds in by_kind])
    gains = {}
    for name, kinds, chance in zip(names, by_kind, chances, strict=True):
        whole = mean_of(list(kinds.values()))
        gains[name] = Gain(
            value=whole.value,
            error=None if math.isinf(whole.variance) else whole.error,
            on={kind: each.value for kind, each in kinds.items()},
            chance=chance,
        )
    return gains


def _like(found: Mapping[str, Evidence], best: str) -> set[str]:
    """The best detector and those that it is not surely better than.

    As it is the best of many, every comparison is corrected for their number (Bonferroni).
    """
    others = [name for name in found if name != best]
    chances = {name: found[best].gain_over(found[name]).chance() for name in others}
    return {best} | {name for name in others if len(others) * chances[name] >= LEVEL}


def _on_left_out(evidence: Evidence) -> OnStandIns | None:
    measured = evidence.on_left_out()
    if measured is None:
        return None
    rates = [fpr95(*scores) for scores in evidence.left_out]
    return OnStandIns(
        auroc=_estimate(measured),
        fpr95=sum(rates) / len(rates),
        folds=[measured_auroc(scores).value for scores in evidence.left_out],
    )


def _on_corrupted(evidence: Evidence) -> OnStandIns | None:
    measured = evidence.on_corrupted()
    if measured is None or evidence.corrupted is None:
        return None
    return OnStandIns(auroc=_estimate(measured), fpr95=fpr95(*evidence.corrupted))


def _estimate(measured: Measured) -> Estimate:
    """An AUROC with its interval, which ends at 0 and 1."""
    limits = measured.interval()
    return Estimate(value=limits.value, low=max(0.0, limits.low), high=min(1.0, limits.high))


def _known(training: Scores | None) -> Scores:
    assert training is not None, "training images were asked for"
    return training


def _accuracy(source: ActivationSource) -> float | None:
    """Of the classifier on images, as a fraction; None without labels."""
    agreement = label_agreement(source)
    return None if agreement is None else agreement.accuracy
