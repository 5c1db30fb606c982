"""Watchdog: a stream that says why when nothing comes any more, instead of waiting for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


READER = "neroli-watched"
"""Name of the thread that reads."""
LOOK_EVERY = 5.0
"""Seconds."""


def watched(
    items: Iterable[T],
    seconds: float,
    stalled: Callable[[], Exception],
    look: Callable[[], None] = lambda: None,
) -> Iterator[T]:
    """The items, read on another thread; what that raises is raised here.

    Args:
        items: what to read.
        seconds: how long the next item may take.
        stalled: makes what to raise if it takes longer.
        look: called every few seconds meanwhile; raises if no item can come any more.
    """
    arrived: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
    ended = threading.Event()

    def read() -> None:
        try:
            for item in items:
                arrived.put((True, item))
                if ended.is_set():
                    return
            arrived.put((False, None))
        except BaseException as error:
            arrived.put((False, error))

    threading.Thread(target=read, name=READER, daemon=True).start()
    try:
        since = time.monotonic()
        while True:
            try:
                more, item = arrived.get(timeout=min(seconds, LOOK_EVERY))
            except queue.Empty:
                look()
                if time.monotonic() - since >= seconds:
                    raise stalled() from None
                continue
            if isinstance(item, BaseException):
                raise item
            if not more:
                return
            yield item  # type: ignore[misc]
            since = time.monotonic()
    finally:
        ended.set()
