"""The search for hyper-parameters on a benchmark's own ID images, and the rows it adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from neroli.activations import ActivationSource, Rows
from neroli.benchmark.entries import Entry
from neroli.benchmark.results import Tuning
from neroli.benchmark.stores import Stores, readable_positions
from neroli.benchmark.tuning import GRIDS, tune
from neroli.classifier import Classifier
from neroli.data.corruptions import corrupted
from neroli.detectors import create
from neroli.errors import InvalidInput
from neroli.extraction import extract

MOST_CORRUPTED = 2_000
HELD_OUT = 5
"""Without calibration images, every so manieth training image is held out from the statistics."""


def searched(
    entries: Sequence[Entry],
    stores: Stores,
    classifier: Classifier,
    folder: Path,
    *,
    seed: int,
    batch_size: int,
) -> tuple[list[Entry], list[Tuning]]:
    """The entries with a published and a tuned one of every detector that is tuned.

    No OOD or test image is looked at. Held-out are the calibration images, or else a fifth of the
    training images, which the network has seen.

    Args:
        entries: of these, those that the search knows and that have their defaults are tuned.
        stores: of the sets.
        classifier: the model, for the corrupted images.
        folder: of the benchmark.
        seed: of the folds and corruptions.
        batch_size: images through the network at a time.

    Raises:
        InvalidInput: if the search knows none of them.
        NeroliError: if neither classes can be left out nor images corrupted.
    """
    names = [entry.label for entry in entries if entry.label in GRIDS]
    if not names:
        raise InvalidInput(f"None of the detectors chosen can be tuned; {', '.join(GRIDS)} can.")
    name = "calibration" if "calibration" in stores.of else "train"
    mask = torch.ones(len(stores.of[name]), dtype=torch.bool)
    train: ActivationSource = stores.of["train"]
    if name == "train":
        mask = torch.arange(len(mask)) % HELD_OUT == 0
        train = Rows(train, ~mask)
    held_out = Rows(stores.of[name], mask)
    positions = readable_positions(stores.pictures[name], stores.of[name])
    rows = mask.nonzero()[:, 0].tolist()
    step = max(1, len(rows) // MOST_CORRUPTED)
    pictures = stores.pictures[name].unlabelled().subset([positions[row] for row in rows[::step]])
    spoiled = extract(
        classifier,
        corrupted(pictures, seed),
        folder / "activations" / "corrupted",
        batch_size=batch_size,
    )
    tuning = tune(names, train, classifier.head, held_out, spoiled, seed=seed)
    tuned = [
        Entry(f"{each.detector}, tuned", create(each.detector, **each.chosen), tuned=True)
        for each in tuning
        if each.chosen
    ]
    return [*entries, *tuned], tuning
