"""What ``neroli fit`` and ``neroli merge`` say they have done."""

from __future__ import annotations

from typing import Any

from neroli.cli.common import emit, list_unreadable
from neroli.cli.fit_run import FitRun
from neroli.scale.partition import Shard

_KINDS = ("training", "calibration")


def report_fit(run: FitRun, as_json: bool) -> None:
    """Say what was fitted."""
    facts = _facts(run)
    list_unreadable(run.guard.unreadable)
    emit(as_json, facts, lambda: _text(facts))


def report_shard(run: FitRun, shard: Shard, as_json: bool) -> None:
    """Extract one part of the images and say what was done.

    That some were unreadable is listed, and left to the merge to exit with: the next job of a
    scheduler begins only where none failed.
    """
    stores = {kind: store for kind, store in run.extract_shard(shard).items() if store is not None}
    counts = {kind: len(stores[kind]) if kind in stores else 0 for kind in _KINDS}
    unreadable = [failure for store in stores.values() for failure in store.failures]
    facts: dict[str, Any] = {
        "folder": str(run.folder),
        "shard": str(shard),
        **{f"{kind}_images": count for kind, count in counts.items()},
        "unreadable": [{"name": f.name, "reason": f.reason} for f in unreadable],
    }
    list_unreadable(unreadable)
    emit(
        as_json,
        facts,
        lambda: (
            f"Extracted shard {shard}: {counts['training']} training and {counts['calibration']} "
            f"calibration images. When all are: neroli merge {run.folder}"
        ),
    )


def _facts(run: FitRun) -> dict[str, Any]:
    guard, match = run.guard, run.match
    assert guard.training is not None and guard.held_out is not None
    assert guard.calibration is not None
    return {
        "guard": str(run.out),
        "replaced": run.replaces,
        "detector": guard.detector.name,
        "hyperparameters": guard.detector.hyperparameters(),
        "head": guard.classifier.head_name,
        "preprocessing": str(guard.classifier.preprocessing),
        "execution": str(guard.classifier.execution),
        "classes": match.classes if match else None,
        "classes_matched": match.rule if match else None,
        "labelled": guard.agreement is not None,
        "training_images": guard.training.images,
        "groups": guard.training.groups,
        "training_accuracy": guard.training.accuracy,
        "doubt": guard.training.doubt,
        "calibration_images": guard.held_out.images,
        "duplicates_dropped": guard.held_out.duplicates_dropped,
        "threshold": guard.calibration.threshold,
        "class_thresholds": guard.held_out.class_thresholds,
        "promise": str(guard.held_out.promise),
        "unreadable": [{"name": f.name, "reason": f.reason} for f in guard.unreadable],
    }


def _text(facts: dict[str, Any]) -> str:
    groups = "" if facts["groups"] is None else f" of {facts['groups']} groups"
    matched = "labelled with class indices" if facts["labelled"] else "without labels"
    if facts["classes"] is not None:
        matched = f"{len(facts['classes'])} labels matched to classes {facts['classes_matched']}"
    accuracy = ""
    if facts["training_accuracy"] is not None:
        accuracy = (
            f"Training accuracy {facts['training_accuracy']:.2%}: compare it with what you know of "
            "the model; much lower means a wrong class order or preprocessing "
            f"({facts['preprocessing']}).\n"
        )
    return (
        f"{'Replaced' if facts['replaced'] else 'Saved'} the guard in {facts['guard']}: "
        f"{facts['detector']} on {facts['training_images']} training images{groups}, {matched}.\n"
        f"{accuracy}"
        f"Calibrated on {facts['calibration_images']} images "
        f"({facts['duplicates_dropped']} dropped as copies or training images): "
        f"{facts['promise']}; threshold {facts['threshold']:.6g}."
    )
