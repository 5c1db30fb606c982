"""Servers over real HTTP, in this process or one of their own, and what is sent to them."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
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

TESTS = str(Path(__file__).parent)


@functools.cache
def colour_guard() -> Guard:
    """A calibrated NERO guard of the colour network; served by one server at a time."""
    return _calibrated(COLOURS)


def guard_with_examples(names: Sequence[str] = COLOURS) -> Guard:
    """One of its own, with small pictures to compare with."""
    return _calibrated(names, keep_examples=30)


def _calibrated(names: Sequence[str], **more: Any) -> Guard:
    classifier = Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=list(names)
    )
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1), **more)
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
    """Asks one server.

    Attributes:
        state: what a server of this process works with, once it is ready.
        records: the file of its records.
        log: of a server in a process of its own.
    """

    state: State
    records: Path
    log: Path

    @property
    def address(self) -> str:
        """Of the server."""
        return str(self.base_url).rstrip("/")

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
    """A client of a server in this process, on a free port, that stops when the block ends.

    Args:
        folder: of its records.
        settings: how it is run.
        guard: that it serves; the one of ``colour_guard`` by default.
        load: called instead of waiting until that is loaded.
    """
    settings = settings or Settings()
    path = folder / "records.sqlite"
    served = guard or colour_guard()
    states: list[State] = []

    def opened(state: State) -> None:
        state.open(served, Records(path, settings), Drift.of(served.check_calibrated()))
        states.append(state)

    server = uvicorn.Server(process_of(create_app(settings, load or opened)))
    listener = bound_to(Settings(port=0))
    listener.listen()  # who connects before the server runs waits, as with the command
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with Client(base_url=address, timeout=60) as client:
            client.records = path
            if load is None:
                client.until_ready()
                client.state = states[0]
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def process(
    guard: Path, records: Path, *options: object
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """``neroli serve`` as a process of its own, on a free port, and a client of it."""
    arguments = ["serve", guard, "--records", records, "--port", 0, *options]
    log = records.with_suffix(".log")  # a pipe that nobody reads would fill up
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "neroli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, TESTS])},
        ) as server,
    ):
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            found = re.search(r"http://\S+", said)
            assert found, said + log.read_text()
            with Client(base_url=found[0], timeout=60) as client:
                client.records, client.log = records, log
                yield server, client
        finally:
            if server.poll() is None:
                server.kill()


def verdicts_of(pictures: list[Image.Image]) -> dict[str, np.ndarray[Any, Any]]:
    """What the guard itself says, all pictures in one batch."""
    guard = colour_guard()
    preprocess = COLOUR_PREPROCESSING
    said = guard(torch.stack([preprocess(picture) for picture in pictures]))
    return {
        name: getattr(said, name).numpy()
        for name in ("score", "p_value", "is_ood", "predicted_class")
    }
