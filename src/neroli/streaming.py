"""Verdicts on any number of images, or of a store's activations, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neroli.data.opening import as_source, without_labels
from neroli.extraction import stream
from neroli.progress import progress_bar
from neroli.store import ActivationStore
from neroli.store_files import Shard
from neroli.store_matching import check_store
from neroli.verdicts import GuardedBatch, Verdicts

if TYPE_CHECKING:
    from neroli.guard import Guard


def verdicts_on_images(
    guard: Guard, images: Any, start: int, batch_size: int, progress: bool | None
) -> Iterator[GuardedBatch]:
    """See ``Guard.stream``."""
    source = without_labels(as_source(images, batch_size))
    for batch in stream(
        guard.classifier,
        source,
        batch_size=batch_size,
        start=start,
        requires=guard.detector.requires,
        progress=progress,
    ):
        found = batch.activations
        verdicts = Verdicts.none() if found is None else guard.verdicts(found)
        of = batch.images
        yield GuardedBatch(of.ids, of.names, verdicts, of.failures, of.end)


def verdicts_on_store(
    guard: Guard, store: ActivationStore, start: int, progress: bool | None
) -> Iterator[GuardedBatch]:
    """See ``Guard.stream``: of a store, whose images have hashes but no names."""
    check_store(store, guard.classifier, guard.detector.requires)
    position = 0
    with progress_bar(store.ends[-1] if store.ends else 0, start, progress) as advance:
        for shard, end in zip(store.shards, store.ends, strict=True):
            if end > start:
                yield from _verdicts_on_shard(guard, shard, position, end, start)
                advance(end)
            position = end


def _verdicts_on_shard(
    guard: Guard, shard: Shard, position: int, end: int, start: int
) -> Iterator[GuardedBatch]:
    """Those on the images between two positions, from ``start`` on if it lies between them.

    Where among them the unreadable ones were is not known: they come last.
    """
    failures = tuple(shard.failures)
    done = max(0, start - position)
    if done >= shard.rows:
        yield GuardedBatch((), (), Verdicts.none(), failures, end)
        return
    activations = shard.activations()[done:]
    for batch in activations.batches():
        first, done = done, done + len(batch)
        last = done >= shard.rows
        ids = batch.ids or [str(position + row) for row in range(first, done)]
        yield GuardedBatch(
            tuple(ids),
            (None,) * len(batch),
            guard.verdicts(batch),
            failures if last else (),
            end if last else position + done,
        )
