"""The files of an activation store: its manifest, its head, and shards of rows.

``store.json`` says what a store is of and whether it is complete, ``head.safetensors`` holds the
linear head, and every ``shard-NNNNNN.safetensors`` some rows of features, logits, labels, ids and
content hashes. Each file is written atomically and carries a checksum of what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neroli.activations import Activations
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import Content, Failure
from neroli.errors import ArtefactError, InvalidInput
from neroli.execution import Execution
from neroli.files import atomic_path, checksum
from neroli.head import LinearHead

SCHEMA_VERSION = 1
TAPS, EXTRAS = "taps/", "extras/"

Column = tuple[str, tuple[int, ...]]
"""The dtype of a column, as safetensors names it, and the shape of one row."""


@dataclass(frozen=True)
class Origin:
    """Of which classifier a store is, and of what images.

    Attributes:
        weights_hash: of the classifier.
        head_name: path of its head.
        content: what the images' hashes are of.
        preprocessing: that the images went through; None if unknown, or if they were tensors.
        input_shape: of an image as the network took it; None if unknown.
        class_names: of the classifier, if it has any.
        execution: how the network was run; None if unknown, as of stores of earlier versions.
    """

    weights_hash: str
    head_name: str
    content: Content
    preprocessing: Preprocessing | None = None
    input_shape: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    execution: Execution | None = None


class StoreManifest(pydantic.BaseModel):
    """What ``store.json`` says.

    Attributes:
        offsets: of shards joined from other stores, what to add to the position each says it ends
            at; those behind them need nothing added.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    origin: Origin | None
    shards: int | None = None
    offsets: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether all shards were written; their number says so."""
        return self.shards is not None

    def offset(self, shard: int) -> int:
        """What to add to the position that a shard says it ends at."""
        return self.offsets[shard] if shard < len(self.offsets) else 0

    def write(self, folder: Path) -> None:
        """Put it in a store's folder, atomically."""
        with atomic_path(folder / "store.json") as path:
            path.write_text(self.model_dump_json(indent=2))


@dataclass(frozen=True, eq=False)
class ShardContent:
    """What a shard holds.

    Attributes:
        tensors: its columns by name, each with as many rows.
        end: position in the image source behind its last image.
        ids: names of the images, if known.
        failures: the images among them that could not be read.
    """

    tensors: Mapping[str, Tensor]
    end: int
    ids: Sequence[str] | None
    failures: Sequence[Failure]

    def write(self, path: Path) -> None:
        """Write it as a shard, atomically."""
        named = [[failure.name, failure.reason] for failure in self.failures]
        header = json.dumps({"end": self.end, "ids": self.ids, "failures": named})
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"shard": header, "checksum": checksum(header, tensors)})


class Shard:
    """One shard file: its size is known, everything else read when asked for.

    Raises:
        ArtefactError: if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                self.names = frozenset(file.keys())
                self.rows = file.get_slice("logits").get_shape()[0] if "logits" in self.names else 0
            header = self._header()
            self.end: int = header["end"]
            _ = header["ids"], _failures(header)  # which are read again when asked for
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ArtefactError(
                f"The shard {str(path)!r} is damaged ({error}): delete its store and extract again."
            ) from None

    @property
    def failures(self) -> list[Failure]:
        return _failures(self._header())

    def columns(self) -> dict[str, Column]:
        """Dtype and row shape of every column, by name."""
        with safe_open(self.path, "pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(self.names)}
            return {n: (s.get_dtype(), tuple(s.get_shape()[1:])) for n, s in slices.items()}

    def tensor(self, name: str) -> Tensor:
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def activations(self) -> Activations:
        """The rows of this shard, mapped from the file rather than read into memory."""
        with safe_open(self.path, "pt") as file:
            return Activations(
                file.get_tensor("features"),
                file.get_tensor("logits"),
                file.get_tensor("labels") if "labels" in self.names else None,
                self._header()["ids"],
                *(
                    {n.removeprefix(kind): file.get_tensor(n) for n in self._of(kind)}
                    for kind in (TAPS, EXTRAS)
                ),
            )

    def content(self) -> ShardContent:
        """All that it holds, the tensors mapped from the file."""
        tensors = {name: self.tensor(name) for name in sorted(self.names)}
        return ShardContent(tensors, self.end, self._header()["ids"], self.failures)

    @property
    def checksum(self) -> str | None:
        """The hash of all that it held when it was written; earlier versions wrote none."""
        with safe_open(self.path, "pt") as file:
            said: str | None = file.metadata().get("checksum")
        return said

    def is_unchanged(self) -> bool | None:
        """Whether all its bytes are as they were written; None if it has no checksum to tell by."""
        with safe_open(self.path, "pt") as file:
            header = file.metadata()["shard"]
            tensors = {name: file.get_tensor(name) for name in self.names}
        said = self.checksum
        return None if said is None else checksum(header, tensors) == said

    def _of(self, kind: str) -> list[str]:
        return sorted(name for name in self.names if name.startswith(kind))

    def _header(self) -> dict[str, Any]:
        with safe_open(self.path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["shard"])
        return header


def _failures(header: dict[str, Any]) -> list[Failure]:
    return [Failure(name, reason) for name, reason in header["failures"]]


def is_store(path: Path | str) -> bool:
    """Whether a folder is an activation store, complete or not."""
    return all((Path(path) / name).is_file() for name in ("store.json", "head.safetensors"))


def no_store(folder: Path) -> ArtefactError:
    """Why a folder without a manifest or head is no activation store."""
    named, manifest, head = repr(str(folder)), folder / "store.json", folder / "head.safetensors"
    if looks_like_store(folder):
        missing = " or ".join(path.name for path in (manifest, head) if not path.is_file())
        return ArtefactError(
            f"{named} is an incomplete or damaged activation store, without {missing}: extract "
            "the images again."
        )
    if inner := stores_in(folder):
        names = " or ".join(repr(str(path)) for path in inner[:3])
        return ArtefactError(f"{named} holds activation stores and is none itself: give {names}.")
    return ArtefactError(f"There is no activation store in {named}.")


def looks_like_store(folder: Path) -> bool:
    """Whether any file of an activation store is in a folder."""
    names = ("store.json", "head.safetensors")
    return any((folder / name).is_file() for name in names) or bool(shard_paths(folder))


def stores_in(folder: Path) -> list[Path]:
    """The activation stores directly below a folder, such as that of ``neroli fit --store``."""
    return sorted(path for path in folder.glob("*") if is_store(path))


def check_outside_stores(folder: Path) -> None:
    """Raise ArtefactError if a folder lies inside an activation store."""
    for parent in folder.resolve().parents:
        if is_store(parent):
            raise ArtefactError(
                f"{str(folder)!r} lies inside the activation store {str(parent)!r}: choose a "
                "folder outside it."
            )


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard of a store is, counted from 0."""
    return folder / f"shard-{number:06d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    """The shards that are in a store's folder, in order."""
    return sorted(folder.glob("shard-*.safetensors"))


def write_head(folder: Path, head: LinearHead) -> None:
    """Put the linear head in a store's folder, atomically."""
    tensors = {"weight": head.weight.cpu().contiguous(), "bias": head.bias.cpu().contiguous()}
    with atomic_path(folder / "head.safetensors") as path:
        save_file(tensors, path)


def read_head(folder: Path) -> LinearHead:
    """The linear head of a store.

    Raises:
        ArtefactError: if it is damaged or missing.
    """
    try:
        head = load_file(folder / "head.safetensors")
        return LinearHead(head["weight"], head["bias"])
    except (OSError, SafetensorError, KeyError, InvalidInput) as error:
        raise ArtefactError(
            f"The head of the store {str(folder)!r} is damaged ({error}): delete the folder "
            "and extract again."
        ) from None


def read_manifest(folder: Path, *, or_none: bool = False) -> StoreManifest | None:
    """What ``store.json`` says; None if there is none, or, if so asked, if it is damaged."""
    path = folder / "store.json"
    try:
        manifest = StoreManifest.model_validate_json(path.read_text())
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
