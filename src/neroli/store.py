"""ActivationStore: the activations of a data set on disk, written in shards and memory-mapped.

A process killed at any moment leaves a store that the next run continues: see ``store_files`` for
what is in its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from neroli.activations import BATCH_SIZE, Activations
from neroli.data.sources import Failure, ImageBatch
from neroli.errors import ArtefactError
from neroli.files import DIGEST_BYTES, is_free, link, locked
from neroli.head import LinearHead
from neroli.store_files import (
    EXTRAS,
    TAPS,
    Column,
    Origin,
    Shard,
    ShardContent,
    StoreManifest,
    check_outside_stores,
    no_store,
    read_head,
    read_manifest,
    shard_path,
    shard_paths,
    write_head,
)
from neroli.store_precision import StoreDtype, check_dtype, check_range, narrowed

__all__ = ["ActivationStore", "Origin", "StoreWriter", "complete_key", "finished"]

SHARD_ROWS = 1024


class ActivationStore:
    """The activations of a data set on disk; a source for ``fit`` whose memory does not grow.

    Args:
        path: the store's folder, as ``StoreWriter`` left it.

    Raises:
        ArtefactError: if there is no complete store, it is damaged, or of a newer schema.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        if manifest is None:
            raise no_store(self.path)
        if not manifest.complete:
            raise ArtefactError(
                f"The activation store {str(self.path)!r} is incomplete: run the extraction again, "
                "it goes on where it stopped."
            )
        self.key = manifest.key
        self.origin = manifest.origin
        self.head = read_head(self.path)
        self.shards = [Shard(path) for path in shard_paths(self.path)]
        if len(self.shards) != manifest.shards:
            raise ArtefactError(
                f"The number of shards of the store {str(self.path)!r} is {len(self.shards)} "
                f"instead of {manifest.shards}: run the extraction again."
            )
        self.ends = [shard.end + manifest.offset(i) for i, shard in enumerate(self.shards)]
        """Positions in the image source behind the last image of every shard."""

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}: {len(self)} images, {self.num_features} "
            f"features, {self.num_classes} classes)"
        )

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def num_features(self) -> int:
        return self.head.num_features

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def has_labels(self) -> bool:
        return all("labels" in shard.names for shard in self.shards if shard.rows)

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read while extracting."""
        return [failure for shard in self.shards for failure in shard.failures]

    def columns(self) -> dict[str, Column]:
        """Dtype and row shape of every column, by name; nothing of a store without rows.

        Raises:
            ArtefactError: if they are not the same in all shards.
        """
        found: dict[str, Column] = {}
        for shard in self.shards:
            if shard.rows:
                columns = shard.columns()
                if found and columns != found:
                    raise ArtefactError(
                        f"The shard {str(shard.path)!r} has other columns than those before it: "
                        "delete its store and extract again."
                    )
                found = columns
        return found

    def digests(self) -> Tensor:
        """Hashes of the images' contents in order, ``[N, 16]`` uint8."""
        return torch.cat([shard.tensor("digests") for shard in self.shards if shard.rows])

    def groups(self) -> Tensor | None:
        """Hashes of what the images belong to (a patient), ``[N, 16]`` uint8; None if unknown."""
        shards = [shard for shard in self.shards if shard.rows]
        if not all("groups" in shard.names for shard in shards):
            return None
        return torch.cat([shard.tensor("groups") for shard in shards])

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """All images in order, at most ``batch_size`` at a time, read from disk as they come."""
        for shard in self.shards:
            if shard.rows:
                yield from shard.activations().batches(batch_size)

    def load(self) -> Activations:
        """All images at once, in memory."""
        return Activations.concatenate([s.activations() for s in self.shards if s.rows])


class StoreWriter:
    """Writes an ActivationStore shard by shard; a context manager.

    If the folder holds a store of the same key, writing goes on behind its last whole shard, unless
    ``anew``; a store of another key is replaced.

    Args:
        path: the store's folder.
        head: the linear head of the classifier.
        key: what the activations are of: see ``neroli.extraction``.
        origin: of which classifier they are; None if of none that a guard could be made with.
        dtype: in which to keep floating-point values; None keeps them as they are.
        anew: begin with an empty store whatever is there.

    Raises:
        InvalidInput: if ``dtype`` is unknown.
        ArtefactError: if the folder cannot be written to, lies inside a store, or holds one of a
            newer schema.
    """

    def __init__(
        self,
        path: Path | str,
        head: LinearHead,
        key: str,
        origin: Origin | None = None,
        *,
        dtype: StoreDtype | None = None,
        anew: bool = False,
    ) -> None:
        check_dtype(dtype)
        self._dtype = dtype
        self.path = Path(path)
        self._head = head
        self._manifest = StoreManifest(key=key, origin=origin)
        self._pending: list[tuple[Activations, Tensor, Tensor | None]] = []
        self._failures: list[Failure] = []
        self._end = 0
        self._shards = 0
        if not is_free(self.path, "store.json", "schema_version"):
            raise ArtefactError(
                f"{str(self.path)!r} holds other files and no store: choose an empty or new folder."
            )
        check_outside_stores(self.path)
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.path, "store"))
        found = read_manifest(self.path, or_none=True)  # this folder is for writing to
        if found is not None and found.key == key and not anew:
            self._manifest.offsets = found.offsets
            self._write_manifest(complete=False)
            self._resume(found.shards)
        else:
            self._start()

    @property
    def position(self) -> int:
        """Position in the image source from which to go on."""
        return self._end

    def append(self, activations: Activations | None, images: ImageBatch | None = None) -> None:
        """Add some images, in order.

        Args:
            activations: of the readable ones among them, if any.
            images: the batch they are of; without it they have no hashes.

        Raises:
            InvalidInput: if a value does not fit the store's dtype.
        """
        rows = 0 if activations is None else len(activations)
        if activations is not None and rows:
            if self._dtype is not None:
                check_range(_columns(activations), activations.ids)
            if images is None:
                digests, groups = torch.zeros(rows, DIGEST_BYTES, dtype=torch.uint8), None
            else:
                digests, groups = images.digests, images.groups
            self._pending.append((activations.to("cpu"), digests, groups))
        self._failures += () if images is None else images.failures
        self._end = self._end + rows if images is None else images.end
        if sum(len(pending[0]) for pending in self._pending) + len(self._failures) >= SHARD_ROWS:
            self.flush()

    def adopt(self, store: ActivationStore) -> None:
        """Add all images of a complete store, as they are; the files are shared where they can be.

        Args:
            store: of the images that come next in the source.
        """
        self.flush()
        before = [self._manifest.offset(number) for number in range(self._shards)]
        ends = zip(store.ends, store.shards, strict=True)
        self._manifest.offsets = [*before, *(self._end + end - s.end for end, s in ends)]
        self._write_manifest(complete=False)  # before the shards that it is needed for
        for shard in store.shards:
            link(shard.path, shard_path(self.path, self._shards))
            self._shards += 1
        self._end += store.ends[-1] if store.ends else 0

    def flush(self) -> None:
        """Write what is pending as a shard."""
        if not self._pending and not self._failures:
            return
        tensors: dict[str, Tensor] = {}
        ids: Sequence[str] | None = None
        if self._pending:
            parts, digests, groups = zip(*self._pending, strict=True)
            activations = Activations.concatenate(parts)
            ids = activations.ids
            tensors = _columns(activations)
            tensors["digests"] = torch.cat(digests)
            if activations.labels is not None:
                tensors["labels"] = activations.labels
            if all(group is not None for group in groups):
                tensors["groups"] = torch.cat(groups)
        self._write(ShardContent(tensors, self._end, ids, self._failures))
        self._pending, self._failures = [], []

    def add(self, content: ShardContent) -> None:
        """Add what another store's shard holds, as a shard.

        Raises:
            InvalidInput: if a value does not fit the store's dtype.
        """
        self.flush()
        if self._dtype is not None:
            check_range(content.tensors, content.ids)
        self._write(content)
        self._end = content.end

    def _write(self, content: ShardContent) -> None:
        if self._dtype is not None:
            content = replace(content, tensors=narrowed(content.tensors))
        content.write(shard_path(self.path, self._shards))
        self._shards += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self.flush()
            if error is None:
                self._write_manifest(complete=True)

    def _start(self) -> None:
        """Begin anew; no manifest says otherwise while shards of an older store are there."""
        (self.path / "store.json").unlink(missing_ok=True)
        for path in shard_paths(self.path):
            path.unlink()
        write_head(self.path, self._head)
        self._write_manifest(complete=False)

    def _resume(self, said: int | None) -> None:
        """Go on behind the last whole shard; of so many, if they were complete."""
        whole = True
        for number, path in enumerate(shard_paths(self.path)):
            try:
                shard = Shard(path)
                whole = whole and path.name == shard_path(self.path, number).name
            except ArtefactError:
                whole = False
            if whole and (said is None or number < said):
                self._end = shard.end + self._manifest.offset(number)
                self._shards = number + 1
            else:  # damaged, behind a damaged one, or surplus
                path.unlink()
        self._manifest.offsets = self._manifest.offsets[: self._shards]
        self._write_manifest(complete=False)

    def _write_manifest(self, *, complete: bool) -> None:
        self._manifest.shards = self._shards if complete else None
        self._manifest.write(self.path)


def _columns(activations: Activations) -> dict[str, Tensor]:
    """What is computed for images, by the names that columns have."""
    columns = {"features": activations.features, "logits": activations.logits}
    columns |= {f"{TAPS}{name}": value for name, value in activations.taps.items()}
    return columns | {f"{EXTRAS}{name}": value for name, value in activations.extras.items()}


def finished(path: Path | str, key: str) -> ActivationStore | None:
    """The complete store of this key, if there is one and it is whole."""
    store = _if_complete(path)
    return store if store is not None and store.key == key else None


def complete_key(path: Path | str) -> str | None:
    """The key of the complete store in a folder; None if there is none."""
    store = _if_complete(path)
    return None if store is None else store.key


def _if_complete(path: Path | str) -> ActivationStore | None:
    try:
        return ActivationStore(path)
    except ArtefactError:
        return None
