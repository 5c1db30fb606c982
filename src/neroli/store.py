"""ActivationStore: the activations of a data set on disk, written in shards and memory-mapped.

A store is a folder: ``store.json`` says what it is of and whether it is complete,
``head.safetensors`` holds the linear head, and every ``shard-NNNNNN.safetensors`` some rows of
features, logits, labels, ids and content hashes. Each file is written atomically, so that a process
killed at any moment leaves a store that the next run continues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neroli.activations import BATCH_SIZE, Activations
from neroli.data.sources import Content, Failure, ImageBatch
from neroli.errors import ArtefactError, InvalidInput
from neroli.files import DIGEST_BYTES, atomic_path, is_free, locked
from neroli.head import LinearHead

SCHEMA_VERSION = 1
SHARD_ROWS = 1024
_TAPS, _EXTRAS = "taps/", "extras/"


@dataclass(frozen=True)
class Origin:
    """Of which classifier a store is, and what its images' hashes are of."""

    weights_hash: str
    head_name: str
    content: Content


class _StoreManifest(pydantic.BaseModel):
    """What ``store.json`` says."""

    schema_version: int = SCHEMA_VERSION
    key: str
    origin: Origin | None
    shards: int | None = None

    @property
    def complete(self) -> bool:
        """Whether all shards were written; their number says so."""
        return self.shards is not None


class ActivationStore:
    """The activations of a data set on disk; a source for ``fit`` whose memory does not grow.

    Args:
        path: the store's folder, as ``StoreWriter`` left it.

    Raises:
        ArtefactError: if there is no complete store, it is damaged, or of a newer schema.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        if manifest is None:
            raise ArtefactError(f"There is no activation store in {str(self.path)!r}.")
        if not manifest.complete:
            raise ArtefactError(
                f"The activation store {str(self.path)!r} is incomplete: run the extraction again, "
                "it goes on where it stopped."
            )
        self.key = manifest.key
        self.origin = manifest.origin
        try:
            head = load_file(self.path / "head.safetensors")
            self.head = LinearHead(head["weight"], head["bias"])
        except (OSError, SafetensorError, KeyError, InvalidInput) as error:
            raise ArtefactError(
                f"The head of the store {str(self.path)!r} is damaged ({error}): delete the folder "
                "and extract again."
            ) from None
        self._shards = [_Shard(path) for path in _shard_paths(self.path)]
        if len(self._shards) != manifest.shards:
            raise ArtefactError(
                f"The store {str(self.path)!r} has {len(self._shards)} of its {manifest.shards} "
                "shards: run the extraction again."
            )

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}: {len(self)} images, {self.num_features} "
            f"features, {self.num_classes} classes)"
        )

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    @property
    def num_features(self) -> int:
        return self.head.num_features

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def has_labels(self) -> bool:
        return all("labels" in shard.names for shard in self._shards if shard.rows)

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read while extracting."""
        return [failure for shard in self._shards for failure in shard.failures]

    def digests(self) -> Tensor:
        """Hashes of the images' contents in order, ``[N, 16]`` uint8."""
        return torch.cat([shard.tensor("digests") for shard in self._shards if shard.rows])

    def groups(self) -> Tensor | None:
        """Hashes of what the images belong to (a patient), ``[N, 16]`` uint8; None if unknown."""
        shards = [shard for shard in self._shards if shard.rows]
        if not all("groups" in shard.names for shard in shards):
            return None
        return torch.cat([shard.tensor("groups") for shard in shards])

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """All images in order, at most ``batch_size`` at a time, read from disk as they come."""
        for shard in self._shards:
            if shard.rows:
                yield from shard.activations().batches(batch_size)

    def load(self) -> Activations:
        """All images at once, in memory."""
        return Activations.concatenate([s.activations() for s in self._shards if s.rows])


class StoreWriter:
    """Writes an ActivationStore shard by shard; a context manager.

    If the folder holds a store of the same key, writing goes on behind its last whole shard; a
    store of another key is replaced.

    Args:
        path: the store's folder.
        head: the linear head of the classifier.
        key: what the activations are of: see ``neroli.extraction``.
        origin: of which classifier they are; None if of none that a guard could be made with.

    Raises:
        ArtefactError: if the folder cannot be written to, or holds a store of a newer schema.
    """

    def __init__(
        self, path: Path | str, head: LinearHead, key: str, origin: Origin | None = None
    ) -> None:
        self.path = Path(path)
        self._head = head
        self._manifest = _StoreManifest(key=key, origin=origin)
        self._pending: list[tuple[Activations, Tensor, Tensor | None]] = []
        self._failures: list[Failure] = []
        self._end = 0
        self._shards = 0
        if not is_free(self.path, "store.json", "schema_version"):
            raise ArtefactError(
                f"{str(self.path)!r} holds other files and no store: choose an empty or new folder."
            )
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.path, "store"))
        found = _read_manifest(self.path, or_none=True)  # this folder is for writing to
        if found is not None and found.key == key:
            self._write_manifest(complete=False)
            self._resume()
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
        """
        rows = 0 if activations is None else len(activations)
        if activations is not None and rows:
            if images is None:
                digests, groups = torch.zeros(rows, DIGEST_BYTES, dtype=torch.uint8), None
            else:
                digests, groups = images.digests, images.groups
            self._pending.append((activations.to("cpu"), digests, groups))
        self._failures += () if images is None else images.failures
        self._end = self._end + rows if images is None else images.end
        if sum(len(pending[0]) for pending in self._pending) + len(self._failures) >= SHARD_ROWS:
            self.flush()

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
            tensors = {"features": activations.features, "logits": activations.logits}
            tensors |= {f"{_TAPS}{name}": value for name, value in activations.taps.items()}
            tensors |= {f"{_EXTRAS}{name}": value for name, value in activations.extras.items()}
            tensors["digests"] = torch.cat(digests)
            if activations.labels is not None:
                tensors["labels"] = activations.labels
            if all(group is not None for group in groups):
                tensors["groups"] = torch.cat(groups)
        header = {
            "end": self._end,
            "ids": ids,
            "failures": [[failure.name, failure.reason] for failure in self._failures],
        }
        with atomic_path(self.path / f"shard-{self._shards:06d}.safetensors") as path:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                path,
                {"shard": json.dumps(header)},
            )
        self._shards += 1
        self._pending, self._failures = [], []

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
        for path in _shard_paths(self.path):
            path.unlink()
        with atomic_path(self.path / "head.safetensors") as path:
            head = {"weight": self._head.weight, "bias": self._head.bias}
            save_file({name: tensor.cpu().contiguous() for name, tensor in head.items()}, path)
        self._write_manifest(complete=False)

    def _resume(self) -> None:
        whole = True
        for number, path in enumerate(_shard_paths(self.path)):
            try:
                shard = _Shard(path)
                whole = whole and path.name == f"shard-{number:06d}.safetensors"
            except ArtefactError:
                whole = False
            if whole:
                self._end, self._shards = shard.end, number + 1
            else:  # damaged, or behind a damaged one
                path.unlink()

    def _write_manifest(self, *, complete: bool) -> None:
        self._manifest.shards = self._shards if complete else None
        with atomic_path(self.path / "store.json") as path:
            path.write_text(self._manifest.model_dump_json(indent=2))


class _Shard:
    """One shard file: its size is known, everything else read when asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, "pt") as file:
                self.names = frozenset(file.keys())
                self.rows = file.get_slice("logits").get_shape()[0] if "logits" in self.names else 0
            self.end: int = self._header()["end"]
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ArtefactError(
                f"The shard {str(path)!r} is damaged ({error}): delete its store and extract again."
            ) from None

    @property
    def failures(self) -> list[Failure]:
        return [Failure(name, reason) for name, reason in self._header()["failures"]]

    def tensor(self, name: str) -> Tensor:
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def activations(self) -> Activations:
        """The rows of this shard, mapped from the file rather than read into memory."""
        with safe_open(self._path, "pt") as file:
            return Activations(
                file.get_tensor("features"),
                file.get_tensor("logits"),
                file.get_tensor("labels") if "labels" in self.names else None,
                self._header()["ids"],
                *(
                    {n.removeprefix(kind): file.get_tensor(n) for n in self._of(kind)}
                    for kind in (_TAPS, _EXTRAS)
                ),
            )

    def _of(self, kind: str) -> list[str]:
        return sorted(name for name in self.names if name.startswith(kind))

    def _header(self) -> dict[str, Any]:
        with safe_open(self._path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["shard"])
        return header


def _shard_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def _read_manifest(folder: Path, *, or_none: bool = False) -> _StoreManifest | None:
    """What ``store.json`` says; None if there is none, or, if so asked, if it is damaged."""
    path = folder / "store.json"
    try:
        manifest = _StoreManifest.model_validate_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtefactError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except ValueError:
        if or_none:
            return None
        raise ArtefactError(
            f"{str(path)!r} is damaged: delete the folder and extract again."
        ) from None
    if manifest.schema_version > SCHEMA_VERSION:
        raise ArtefactError(
            f"The store {str(folder)!r} has schema {manifest.schema_version}, newer than the "
            f"{SCHEMA_VERSION} this neroli reads: upgrade neroli."
        )
    return manifest
