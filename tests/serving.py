"""A server in this process, over real HTTP, and the pictures that are sent to it."""

from __future__ import annotations

import base64
import functools
import io
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from PIL import Image

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard
from neroli.detectors import NERO
from neroli.serve.app import create_app
from neroli.serve.drift import Drift
from neroli.serve.listening import bound_to, process_of
from neroli.serve.records import Records
from neroli.serve.settings import Settings
from neroli.serve.state import State
from networks import COLOURS, colour_images, colour_loader, trained_colour_network


@functools.cache
def colour_guard() -> Guard:
    """A calibrated NERO guard of the colour network; served by one server at a time."""
    classifier = Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS
    )
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1))
    return guard.calibrate(colour_loader(120, 2, labels=False))


def colour_pictures(count: int, seed: int = 5) -> list[Image.Image]:
    """Pictures of the kind that the colour network knows."""
    return [Image.fromarray(pixels) for pixels in colour_images(count, seed)[0]]


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def as_json(*contents: bytes) -> dict[str, list[str]]:
    """The body of a request of JSON."""
    return {"images": [base64.b64encode(content).decode() for content in contents]}


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds next to nothing."""
    small = bytearray(encoded(Image.new("L", (1, 1))))
    small[16:24] = width.to_bytes(4) + height.to_bytes(4)
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4)
    return bytes(small)


class Client(httpx.Client):
    """Asks one server."""

    records: Path

    def until_ready(self) -> None:
        """Wait until images are scored."""
        for _ in range(600):
            if self.get("/v2/health/ready").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError("the server never became ready")


@contextmanager
def serving(
    folder: Path,
    settings: Settings | None = None,
    *,
    guard: Guard | None = None,
    load: Callable[[State], None] | None = None,
) -> Iterator[Client]:
    """A client of a server that listens on a free port, and stops at the end of the block."""
    settings = settings or Settings()
    path = folder / "records.sqlite"
    served = guard or colour_guard()

    def opened(state: State) -> None:
        state.open(served, Records(path, settings), Drift.of(served.check_calibrated()))

    server = uvicorn.Server(process_of(create_app(settings, load or opened)))
    listener = bound_to(Settings(port=0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with Client(base_url=address, timeout=60) as client:
            client.records = path
            if load is None:
                client.until_ready()
            yield client
    finally:
        server.should_exit = True
        thread.join()


def verdicts_of(pictures: list[Image.Image]) -> dict[str, np.ndarray[Any, Any]]:
    """What the guard itself says, all pictures in one batch."""
    guard = colour_guard()
    preprocess = COLOUR_PREPROCESSING
    said = guard(torch.stack([preprocess(picture) for picture in pictures]))
    return {
        name: getattr(said, name).numpy()
        for name in ("score", "p_value", "is_ood", "predicted_class")
    }
