"""Batches made ready while the network computes: in a thread of their own, and copied to a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_POLL = 0.1
"""Seconds after which a waiting thread looks whether it is still wanted."""


def prefetched(items: Iterator[T], depth: int = 1) -> Iterator[T]:
    """The items in order, made in another thread while the caller works on those before.

    Memory holds the caller's item, ``depth`` that are ready and one being made. An error comes
    where its item would have.

    Args:
        items: what makes them; a generator is closed in that thread when the caller stops early.
        depth: how many are made ready.
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(kind: str, item: T | BaseException | None) -> None:
        while not unwanted.is_set():
            with suppress(queue.Full):
                ready.put((kind, item), timeout=_POLL)
                return

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if unwanted.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    thread = threading.Thread(target=make, name="neroli-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            if kind == "end":
                return
            yield item  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()


def copier(device: torch.device) -> Callable[[Tensor], Tensor]:
    """What copies images to a device; to a GPU from pinned memory, beside what it computes.

    Called in the thread that will use the copies; what it gives may be called in another.
    """
    if device.type != "cuda":
        return lambda images: images.to(device)
    using = torch.cuda.current_stream(device)
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied(images: Tensor) -> Tensor:
        with torch.cuda.stream(copying):
            there = images.pin_memory().to(device, non_blocking=True)
        copying.synchronize()  # only this thread waits; pinned memory is free again after
        there.record_stream(using)  # which may still read it when Python has let it go
        return there

    return copied
