"""What the page on the guard says: method, calibration, training, provenance, doubts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from neroli import __version__
from neroli.detectors.about import setting
from neroli.explain.facts import plain
from neroli.explain.wording import percentage
from neroli.serve.page_charts import calibration_chart

if TYPE_CHECKING:
    from neroli.guard import Guard

Facts = list[tuple[str, str]]
_MOST_CLASSES = 200


def guard_page_facts(guard: Guard, version: str) -> dict[str, Any]:
    """What the template is given.

    Args:
        guard: fitted and calibrated.
        version: 16 hexadecimal digits.
    """
    calibration = guard.check_calibrated()
    assert guard.training is not None, "a calibrated guard was fitted"
    promise = calibration.promise
    return {
        "promise": f"It promises {promise}, as long as new ordinary images are like those it was "
        "calibrated on.",
        "calibration": f"{len(calibration):,}",
        "chart": calibration_chart(calibration.scores, calibration.threshold),
        "doubts": [plain(doubt) for doubt in _doubts(guard)],
        "groups": [
            ("Method", _method(guard)),
            ("Calibration", _calibration(guard)),
            ("Training", _training(guard)),
            ("Provenance", _provenance(guard, version)),
        ],
        "classes": _classes(guard),
    }


def class_names(guard: Guard) -> list[str]:
    """What the classes are called, or their numbers."""
    names = guard.classifier.class_names
    return names or [f"class {c}" for c in range(guard.classifier.head.num_classes)]


def _doubts(guard: Guard) -> list[str]:
    training = guard.training
    assert training is not None
    doubts = [training.doubt] if training.doubt else []
    return doubts + guard.check_calibrated().doubts(training.predicted, class_names(guard))


def _method(guard: Guard) -> Facts:
    detector, classifier = guard.detector, guard.classifier
    paper = f" ({detector.paper})" if detector.paper is not None else ""
    settings = detector.hyperparameters()
    return [
        ("Detector", f"{detector.name}{paper}"),
        ("Measures", detector.measures),
        *(
            (h.name, f"{setting(settings[h.name])} ({h.meaning})")
            for h in detector.declared()
            if h.name in settings
        ),
        (
            "Classifier",
            f"{classifier.head.num_classes} classes from {classifier.head.num_features} neurons "
            f"(layer {plain(classifier.head_name)})",
        ),
        ("Preprocessing", str(classifier.preprocessing or "none")),
    ]


def _calibration(guard: Guard) -> Facts:
    calibration, held_out = guard.check_calibrated(), guard.held_out
    own = len(calibration.own_classes)
    others = f" ({own} of the classes have others)" if own else ""
    facts = [
        ("Promise", str(calibration.promise)),
        ("Threshold", f"{calibration.threshold:.6g}{others}"),
        ("Images", f"{len(calibration):,}, held out from training"),
    ]
    if held_out is not None:
        facts += [
            ("Left out", f"{held_out.duplicates_dropped:,} copies or training images, "
             f"{held_out.unreadable:,} that could not be read"),
        ]  # fmt: skip
        if held_out.learned_from:
            facts.append(("Learned from", f"{held_out.learned_from:,} further held-out images"))
    return facts


def _training(guard: Guard) -> Facts:
    training = guard.training
    assert training is not None
    pictures = 0 if guard.reference is None else len(guard.reference.state.get("thumbnails", ()))
    return [
        ("Images", f"{training.images:,}, and {training.unreadable:,} that could not be read"),
        ("Groups", "not stated" if training.groups is None else f"{training.groups:,}"),
        ("Accuracy on them", "unknown" if training.accuracy is None
         else percentage(training.accuracy)),
        ("Small pictures kept", f"{pictures:,}"),
    ]  # fmt: skip


def _provenance(guard: Guard, version: str) -> Facts:
    training, source = guard.training, guard.model_source
    assert training is not None
    return [
        ("Guard version", version),
        ("Made", f"{guard.made} (fitted or calibrated last)"),
        ("Model", plain(source.model) if source else "given by the program"),
        ("Weights hash", training.weights_hash),
        ("Running on", f"neroli {__version__}, torch {torch.__version__}"),
    ]


def _classes(guard: Guard) -> list[tuple[str, str, str, str]]:
    """Name, training images, calibration images and threshold of each predicted class."""
    calibration, training = guard.check_calibrated(), guard.training
    assert training is not None
    held_out = torch.bincount(calibration.predictions, minlength=calibration.num_classes).tolist()
    learned = (
        [f"{n:,}" for n in training.predicted] if training.predicted else ["?"] * len(held_out)
    )
    columns = (class_names(guard), learned, held_out, calibration.thresholds.tolist())
    return [
        (plain(name), seen, f"{count:,}", f"{threshold:.4g}")
        for name, seen, count, threshold in list(zip(*columns, strict=True))[:_MOST_CLASSES]
    ]
