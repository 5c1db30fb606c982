"""The search for hyper-parameters on a benchmark's own ID images, and the rows it adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from neroli.activations import ActivationSource, Rows
from neroli.benchmark.entries import Entry
from neroli.benchmark.results import Tuning
from neroli.benchmark.stores import Stores, readable_positions
from neroli.benchmark.tuning import GRIDS, tune
from neroli.classifier import Classifier
from neroli.data.corruptions import corrupted
from neroli.data.pictures import Pictures
from neroli.detectors import create
from neroli.errors import InvalidInput
from neroli.extraction import extract
from neroli.store import ActivationStore

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
    spoiled = extract(
        classifier,
        corrupted(some_pictures(stores.pictures[name], stores.of[name], mask), seed),
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


def some_pictures(pictures: Pictures, store: ActivationStore, rows: Tensor) -> Pictures:
    """The pictures of some rows of their store, at most some 2,000, to be corrupted.

    Args:
        pictures: all of them.
        store: of them.
        rows: which may be taken, bool ``[N]``; evenly spread ones are.
    """
    positions = readable_positions(pictures, store)
    among = rows.nonzero()[:, 0].tolist()
    step = max(1, len(among) // MOST_CORRUPTED)
    return pictures.unlabelled().subset([positions[row] for row in among[::step]])
