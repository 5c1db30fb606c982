"""Fit all detectors in the same passes and score every set with each; what was done is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from neroli import __version__
from neroli.activations import ActivationSource, Rows
from neroli.benchmark.entries import Entry
from neroli.benchmark.isolation import Isolated, reason_of
from neroli.benchmark.results import Cost, Failed
from neroli.benchmark.scores import Scores, read_scores, write_scores
from neroli.benchmark.stores import Stores, file_name
from neroli.detectors import Detector
from neroli.files import text_digest
from neroli.fitting import fit, fit_held_out, learns_held_out
from neroli.overlap import seeded_half
from neroli.store import ActivationStore

MOST_TRAINING = 10_000


def measure(
    entries: Sequence[Entry],
    stores: Stores,
    folder: Path,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[dict[str, Scores], list[Failed]]:
    """The scores of every detector on every set, and why some have none.

    Of the training images at most ``MOST_TRAINING``, evenly spread, are scored.

    Args:
        entries: the detectors.
        stores: the activations; detectors learn from "train", and from half of "calibration" what
            only held-out images can teach, if there is that set.
        folder: where scores are kept; those of the same detector, images and version are read.
        say: told what is being done.

    Raises:
        ArtefactError: if the scores cannot be written.
    """
    paths = {entry.label: folder / _file_name(entry, stores) for entry in entries}
    found = {label: scores for label, path in paths.items() if (scores := read_scores(path))}
    missing = [entry for entry in entries if entry.label not in found]
    if not missing:
        return found, []
    say(f"Fitting {len(missing)} detectors together ...")
    train = stores.of["train"]
    learners = fit([Isolated(entry.detector) for entry in missing], train, train.head)
    _learn_held_out(learners, stores)
    costs = {
        entry.label: (learner.seconds, _state_bytes(learner))
        for entry, learner in zip(missing, learners, strict=True)
    }
    scored: dict[str, dict[str, Tensor]] = {entry.label: {} for entry in missing}
    images = 0
    for name, store in stores.of.items():
        say(f"Scoring {name} ...")
        source = _some(store) if name == "train" else store
        images += len(source)
        for entry, values in zip(missing, _score(learners, source), strict=True):
            if values is not None:
                scored[entry.label][name] = values
    failures = []
    for entry, learner in zip(missing, learners, strict=True):
        label = entry.label
        if learner.error:
            failures.append(Failed(label=label, reason=reason_of(learner.error)))
            continue
        fitting, size = costs[label]
        cost = Cost(
            fit_seconds=fitting,
            score_seconds=(learner.seconds - fitting) * 1000 / images,
            state_bytes=size,
        )
        found[label] = Scores(scored[label], cost)
        write_scores(paths[label], found[label])
    return found, failures


def _some(store: ActivationStore) -> Rows:
    """So many training images that it can be told whether a detector knows them again."""
    step = -(-len(store) // MOST_TRAINING)
    return Rows(store, torch.arange(len(store)) % step == 0)


def learning_half(detector: Detector, stores: Stores) -> Tensor | None:
    """Which calibration images a detector learned from, bool ``[N]``; None if it did not."""
    calibration = stores.of.get("calibration")
    if calibration is None or not learns_held_out(detector, calibration.head)[0]:
        return None
    digests = calibration.digests()
    return seeded_half(digests, torch.ones(len(digests), dtype=torch.bool))


def _learn_held_out(learners: Sequence[Isolated], stores: Stores) -> None:
    """Let those learn from calibration images that do, as a guard does."""
    calibration = stores.of.get("calibration")
    if calibration is None:
        return
    able = [each for each in learners if not each.error]
    halves = [(each, learning_half(each.detector, stores)) for each in able]
    learning = [(each, half) for each, half in halves if half is not None]
    if learning:
        half = Rows(calibration, learning[0][1])  # it depends on the images alone
        fit_held_out([each for each, _ in learning], half, calibration.head)


def _score(learners: Sequence[Isolated], source: ActivationSource) -> list[Tensor | None]:
    """The scores of all images by every detector, ``[N]`` float64; None of those that failed."""
    parts: list[list[Tensor]] = [[] for _ in learners]
    for batch in source.batches():
        for learner, scores in zip(learners, parts, strict=True):
            fresh = batch[:]  # without what others computed, for each its own time
            if (values := learner.score(fresh)) is not None:
                scores.append(values.double())
    return [
        None if learner.error else torch.cat(scores)
        for learner, scores in zip(learners, parts, strict=True)
    ]


def _state_bytes(learner: Isolated) -> int:
    """Of what it learned; the head is the classifier's."""
    if learner.error:
        return 0
    state = learner.detector.state()
    return sum(state[name].nbytes for name in state if not name.startswith("head."))


def _file_name(entry: Entry, stores: Stores) -> str:
    """The file of a detector's scores; another for other settings, images or versions."""
    keys = [f"{name} {store.key}" for name, store in stores.of.items()]
    digest = text_digest([__version__, entry.identity, *keys])
    return f"{file_name(entry.label)}-{digest[:16]}.safetensors"
