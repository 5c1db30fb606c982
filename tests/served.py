"""A small guard with examples behind the review pages, and records to fill them with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard
from neroli.detectors import NERO
from neroli.serve.drift import Drift
from neroli.serve.records import Records
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings
from neroli.serve.state import State
from networks import COLOURS, colour_loader, trained_colour_network
from recorded import scored
from serving import colour_pictures, encoded, serving


def guard_with_examples(names: Sequence[str] = COLOURS) -> Guard:
    """A calibrated NERO guard of the colour network, with small pictures to compare with."""
    classifier = Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=list(names)
    )
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1), keep_examples=30)
    return guard.calibrate(colour_loader(120, 2, labels=False))


def usual_picture(seed: int = 5) -> bytes:
    """One the network knows, as a PNG."""
    return encoded(colour_pictures(1, seed)[0])


def unusual_picture() -> bytes:
    """One it does not, as a PNG: white above, black below."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    return encoded(Image.fromarray(pixels))


def record(number: int, guard: str, **changes: Any) -> Scored:
    """A record of a flagged image; the larger its number, the later and the less unusual."""
    values = {
        "id": f"{number:032x}",
        "at": 1_760_000_000.0 + 60 * number,
        "predicted_class": number % 3,
        "predicted_name": COLOURS[number % 3],
        "score": 3.0 - 0.01 * number,
        "p_value": (1 + number) / 1000,
        "guard": guard,
    }
    return scored(**(values | changes))


@dataclass
class Served:
    """A server that runs, and what it works with."""

    address: str
    state: State


@contextmanager
def served(folder: Path, guard: Guard | None, **settings: Any) -> Iterator[Served]:
    """Serve a guard on a free port of this machine until the block ends; None is never loaded."""
    chosen = Settings(**settings)
    states: list[State] = []

    def load(state: State) -> None:
        if guard is not None:
            drift = Drift.of(guard.check_calibrated())
            state.open(guard, Records(folder / "records.sqlite", chosen), drift)
        states.append(state)

    with serving(folder, chosen, load=load) as client:
        for _ in range(600):
            if states:
                break
            time.sleep(0.05)
        yield Served(str(client.base_url).rstrip("/"), states[0])
