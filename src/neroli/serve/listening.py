"""The process that listens: its socket, its log, and how it stops."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from neroli.errors import InvalidInput
from neroli.serve.app import create_app
from neroli.serve.connections import Connection
from neroli.serve.settings import Settings
from neroli.serve.state import State

SECONDS_TO_STOP = 60
"""That requests are given to end once the process was told to stop."""


def serve(
    settings: Settings, load: Callable[[State], None], listening: Callable[[str], None]
) -> None:
    """Serve until the process is told to stop (SIGTERM, Ctrl-C); what was accepted is finished.

    Args:
        settings: how the server is run.
        load: as of ``create_app``.
        listening: is told the address once connections are accepted, loaded or not.

    Raises:
        InvalidInput: if the address cannot be listened on.
        KeyboardInterrupt: if Ctrl-C is pressed again, and what was accepted is not finished.
    """
    _log_to_standard_error()
    with bound_to(settings) as bound:
        process = process_of(create_app(settings, load))
        server = uvicorn.Server(process)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        bound.listen(process.backlog)  # who connects from now on waits rather than fails
        with _ended_by_signals(server):
            listening(f"http://{host}:{bound.getsockname()[1]}")
            server.run(sockets=[bound])


def process_of(app: FastAPI) -> uvicorn.Config:
    """How an application is run."""
    return uvicorn.Config(
        app,
        http=Connection,
        access_log=False,  # it would hold paths as clients sent them
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )


def bound_to(settings: Settings) -> socket.socket:
    """A socket at the address.

    Raises:
        InvalidInput: if it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends without delay only where the protocol is named; else answers take 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror or error}. "
            "Choose another --host or --port."
        ) from None
    return listener


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let signals end the server alone: once it has ended, uvicorn would end the process by them.

    Raises:
        KeyboardInterrupt: at the end of the block, if a second Ctrl-C did not wait for the first.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone has signals
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if server.force_exit:
        raise KeyboardInterrupt


def _log_to_standard_error() -> None:
    """One line an event, with the time in UTC; other libraries only when they warn."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("neroli").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes bodies
