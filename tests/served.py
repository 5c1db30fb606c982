"""The review pages of a small guard, served over HTTP as a browser meets them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard
from neroli.detectors import NERO
from neroli.serve.app import create_app
from neroli.serve.drift import Drift
from neroli.serve.records import Records
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings
from neroli.serve.state import State
from networks import COLOURS, colour_images, colour_loader, trained_colour_network


def colour_guard(names: Sequence[str] = COLOURS, keep_examples: int = 30) -> Guard:
    """A calibrated NERO guard of the colour network, with small pictures to compare with."""
    classifier = Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=list(names)
    )
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1), keep_examples=keep_examples)
    return guard.calibrate(colour_loader(120, 2, labels=False))


def usual_picture(seed: int = 5) -> bytes:
    """One the network knows, as a PNG."""
    return _png(colour_images(1, seed)[0][0])


def unusual_picture() -> bytes:
    """One it does not, as a PNG: white above, black below."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    return _png(pixels)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def record(number: int, guard: str, **changed: Any) -> Scored:
    """A record of a flagged image; the larger its number, the later and the less unusual."""
    values: dict[str, Any] = {
        "id": f"{number:032x}",
        "request": "0" * 32,
        "content": f"{number:032x}"[::-1],
        "at": 1_760_000_000.0 + 60 * number,
        "predicted_class": number % 3,
        "predicted_name": COLOURS[number % 3],
        "score": 3.0 - 0.01 * number,
        "p_value": (1 + number) / 1000,
        "is_ood": True,
        "threshold": 1.0,
        "guard": guard,
    }
    return Scored(**(values | changed))


@dataclass
class Served:
    """A server that runs, and what it works with."""

    address: str
    state: State


@contextmanager
def served(folder: Path, guard: Guard | None, **settings: Any) -> Iterator[Served]:
    """Serve a guard on a free port of this machine until the block ends; None is never loaded."""
    chosen = Settings(port=0, **settings)
    states: list[State] = []

    def load(state: State) -> None:
        states.append(state)
        if guard is not None:
            drift = Drift.of(guard.check_calibrated())
            state.open(guard, Records(folder / "records.sqlite", chosen), drift)

    config = uvicorn.Config(create_app(chosen, load), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and states and states[0].ready == (guard is not None)):
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", states[0])
    finally:
        server.should_exit = True
        thread.join()
