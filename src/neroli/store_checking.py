"""What an activation store holds, complete or not, and whether it is as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from neroli.activations import all_finite
from neroli.errors import ArtefactError
from neroli.head import LinearHead
from neroli.overlap import digest_keys
from neroli.store_files import (
    Column,
    Origin,
    Shard,
    StoreManifest,
    no_store,
    read_head,
    read_manifest,
    shard_path,
    shard_paths,
)

_TOLERANCE = 1e-2
"""Of logits, as a share of the sum of absolute terms: bfloat16 networks and float16 stores round
by less, another head differs by more."""
_TOLERANCE_64 = 1e-6


@dataclass(frozen=True)
class StoreFacts:
    """What a store says of itself and what lies in its folder.

    Attributes:
        complete: whether everything was extracted.
        origin: of which classifier and images it is; None if it does not say.
        num_features, num_classes: of the head; None if its file is damaged.
        images: rows in whole shards.
        unreadable: images that could not be read.
        shards: how many are whole.
        expected: how many there should be; None while it is incomplete.
        damaged: names of files that cannot be read.
        checksums: how many shards have one; stores of earlier versions have none.
        size: bytes on disk.
        columns: dtype, as safetensors names it, and shape of a row, by name.
    """

    path: str
    key: str
    complete: bool
    origin: Origin | None
    num_features: int | None
    num_classes: int | None
    images: int
    unreadable: int
    shards: int
    expected: int | None
    damaged: tuple[str, ...]
    checksums: int
    size: int
    columns: dict[str, Column]


@dataclass(frozen=True)
class Verification:
    """Whether a store is sound.

    Attributes:
        problems: what is wrong, a sentence each; none if it is sound.
        copies: images whose content is that of an earlier one; not a problem.
        images: rows that were read.
        unprotected: shards without a checksum, in which a changed byte may go unnoticed.
    """

    problems: tuple[str, ...]
    copies: int
    images: int
    unprotected: int


def inspected(path: Path | str) -> StoreFacts:
    """What a store holds, without reading its values; it may be incomplete or damaged.

    Raises:
        ArtefactError: if there is none, or its manifest cannot be read.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    head, shards, damaged = _opened(folder)
    columns: dict[str, Column] = {}
    for shard in shards:
        columns |= shard.columns() if shard.rows and not columns else {}
    return StoreFacts(
        path=str(folder),
        key=manifest.key,
        complete=manifest.complete,
        origin=manifest.origin,
        num_features=None if head is None else head.num_features,
        num_classes=None if head is None else head.num_classes,
        images=sum(shard.rows for shard in shards),
        unreadable=sum(len(shard.failures) for shard in shards),
        shards=len(shards),
        expected=manifest.shards,
        damaged=tuple(damaged),
        checksums=sum(shard.checksum is not None for shard in shards),
        size=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        columns=columns,
    )


def verified(path: Path | str) -> Verification:
    """Read all that a store holds and check it, in memory that does not grow with it.

    Every shard is checked for changed bytes, its shapes, dtypes and labels, NaN and infinity, and
    its logits against the head.

    Raises:
        ArtefactError: if there is none, or its manifest cannot be read.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    head, shards, damaged = _opened(folder)
    problems = [f"{name} is damaged." for name in damaged]
    if not manifest.complete:
        problems.append("It is incomplete: run the extraction again, it goes on where it stopped.")
    elif len(shards) != manifest.shards:
        problems.append(
            f"The number of whole shards is {len(shards)} instead of {manifest.shards}."
        )
    columns: dict[str, Column] = {}
    digests: list[Tensor] = []
    for shard in shards:
        if shard.rows:
            columns = columns or shard.columns()
        try:
            problems += [f"{shard.path.name}: {text}" for text in _problems(shard, head, columns)]
            digests += [shard.tensor("digests")] if shard.rows else []
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            problems.append(f"{shard.path.name} is damaged ({error}).")
    return Verification(
        problems=tuple(problems),
        copies=_copies(torch.cat(digests)) if digests else 0,
        images=sum(shard.rows for shard in shards),
        unprotected=sum(shard.checksum is None for shard in shards),
    )


def _manifest(folder: Path) -> StoreManifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise no_store(folder)
    return manifest


def _opened(folder: Path) -> tuple[LinearHead | None, list[Shard], list[str]]:
    """The head if it is whole, the whole shards, and names of the files that are not."""
    head, shards, damaged = None, [], []
    try:
        head = read_head(folder)
    except ArtefactError:
        damaged.append("head.safetensors")
    paths = shard_paths(folder)
    missing = {shard_path(folder, number).name for number in range(len(paths))}
    for path in paths:
        missing.discard(path.name)
        try:
            shards.append(Shard(path))
        except ArtefactError:
            damaged.append(path.name)
    return head, shards, damaged + sorted(missing)


def _problems(shard: Shard, head: LinearHead | None, columns: dict[str, Column]) -> Iterator[str]:
    """What is wrong with a shard, a sentence each."""
    if shard.is_unchanged() is False:
        yield "bytes have changed since they were written."
    if not shard.rows:
        return
    if shard.columns() != columns:
        yield "its columns are not those of the first shard."
        return
    batch = shard.activations()
    if batch.ids is not None and len(batch.ids) != shard.rows:
        yield f"{len(batch.ids)} ids for {shard.rows} images."
    for name in sorted(columns):
        values = shard.tensor(name)
        if values.is_floating_point() and not all_finite(values):
            row = int((~values.isfinite()).reshape(shard.rows, -1).any(1).nonzero()[0])
            yield f"{name!r} of row {row} holds NaN or infinity."
            return
    if head is None:
        return
    if (batch.num_features, batch.num_classes) != (head.num_features, head.num_classes):
        yield (
            f"{batch.num_features} features and {batch.num_classes} classes, its head has "
            f"{head.num_features} and {head.num_classes}."
        )
        return
    wrong = _wrong_logits(batch.features, batch.logits, head)
    if wrong is not None:
        yield f"the logits of row {wrong} are not what the head makes of its features."


def _wrong_logits(features: Tensor, logits: Tensor, head: LinearHead) -> int | None:
    """The first row whose logits differ from W f + b by more than rounding."""
    features, logits = features.double(), logits.double()
    head64 = head.like(features)
    terms = features.abs() @ head64.weight.abs().T + head64.bias.abs()
    exact = head.weight.dtype == torch.float64
    error = (head64(features) - logits).abs()
    rows = (error > (_TOLERANCE_64 if exact else _TOLERANCE) * terms).any(1).nonzero()
    return int(rows[0]) if len(rows) else None


def _copies(digests: Tensor) -> int:
    """How many images have the content of an earlier one; those without hashes are none."""
    known = digests[digests.bool().any(1)]
    return len(known) - len(np.unique(digest_keys(known)))
