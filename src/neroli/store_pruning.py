"""Pruning: a smaller store of what is still needed of another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neroli.activations import all_finite
from neroli.errors import InvalidInput
from neroli.files import text_digest
from neroli.overlap import digest_keys
from neroli.store import ActivationStore, StoreWriter, finished
from neroli.store_files import EXTRAS, TAPS, ShardContent
from neroli.store_precision import StoreDtype

FAILURES = "failures"
"""What the names of unreadable images are dropped by."""
_NEEDED = ("features", "logits", "digests")


def pruned(
    store: ActivationStore,
    path: Path | str,
    *,
    drop: Sequence[str] = (),
    copies: bool = True,
    not_finite: bool = True,
    dtype: StoreDtype | None = None,
) -> ActivationStore:
    """A new store without some columns and rows of another, or in another dtype.

    An interrupted pruning is done again from the start; the store it is of stays as it is.

    Args:
        store: the other.
        path: the new store's folder.
        drop: columns, ``"taps"`` and ``"extras"`` for all of these, and ``"failures"`` for the
            names of unreadable images.
        copies: keep images whose content is that of an earlier one.
        not_finite: keep images with NaN or infinity, which no detector can learn from.
        dtype: of the new store; None keeps that of the other.

    Raises:
        InvalidInput: if ``drop`` names something that is not there or is always needed, the folders
            are the same, no image would stay, or a value does not fit ``dtype``.
        ArtefactError: if the store is damaged, or the new one cannot be written.
    """
    if store.path.resolve() == Path(path).resolve():
        raise InvalidInput(f"{str(path)!r} is the store to prune: choose another folder for it.")
    dropped = _dropped(store, drop)
    key = pruned_key(store, drop=drop, copies=copies, not_finite=not_finite, dtype=dtype)
    if (found := finished(path, key)) is not None:
        return found
    kept = _first_copies(store) if not copies else torch.ones(len(store), dtype=torch.bool)
    rows = 0
    with StoreWriter(path, store.head, key, store.origin, dtype=dtype, anew=True) as writer:
        for shard, end in zip(store.shards, store.ends, strict=True):
            content = replace(shard.content(), end=end)
            tensors = {n: t for n, t in content.tensors.items() if n not in dropped}
            mask, kept = kept[: shard.rows], kept[shard.rows :]
            if not not_finite:
                mask = mask & _finite_rows(tensors, shard.rows)
            content = replace(
                content,
                tensors=tensors,
                failures=() if FAILURES in drop else content.failures,
            )
            writer.add(content if mask.all() else _of_rows(content, mask))
            rows += int(mask.sum())
        if not rows:
            raise InvalidInput(f"No image of the store {str(store.path)!r} would be left.")
    return ActivationStore(path)


def pruned_key(
    store: ActivationStore,
    *,
    drop: Sequence[str] = (),
    copies: bool = True,
    not_finite: bool = True,
    dtype: StoreDtype | None = None,
) -> str:
    """What identifies the store that ``pruned`` makes with the same arguments."""
    options = [sorted(drop), copies, not_finite, dtype]
    return text_digest(["pruned", store.key, json.dumps(options)])


def _dropped(store: ActivationStore, drop: Sequence[str]) -> set[str]:
    """The columns that the words for them name."""
    columns, dropped = store.columns(), set[str]()
    groups = {"taps": TAPS, "extras": EXTRAS}
    for word in drop:
        prefix = groups.get(word)
        found = {name for name in columns if name == word or (prefix and name.startswith(prefix))}
        if word in _NEEDED:
            raise InvalidInput(f"A store cannot do without {word!r}: drop other columns.")
        if not found and word != FAILURES:
            raise InvalidInput(
                f"The store {str(store.path)!r} has no column {word!r} to drop: it has "
                f"{', '.join(columns)}."
            )
        dropped |= found
    return dropped


def _first_copies(store: ActivationStore) -> Tensor:
    """Which images are no copy of an earlier one, bool ``[N]``; without hashes, all."""
    digests = store.digests()
    first = ~digests.bool().any(1)
    first[np.unique(digest_keys(digests), return_index=True)[1]] = True
    return first


def _finite_rows(tensors: dict[str, Tensor], rows: int) -> Tensor:
    """Which rows hold neither NaN nor infinity, bool ``[N]``."""
    finite = torch.ones(rows, dtype=torch.bool)
    for values in tensors.values():
        if values.is_floating_point() and not all_finite(values):
            finite &= values.isfinite().reshape(rows, -1).all(1)
    return finite


def _of_rows(content: ShardContent, mask: Tensor) -> ShardContent:
    """Some rows of a shard; none of the columns, if it is none."""
    tensors = {n: values[mask] for n, values in content.tensors.items()} if mask.any() else {}
    kept = mask.nonzero()[:, 0].tolist()
    ids = content.ids
    return replace(content, tensors=tensors, ids=None if ids is None else [ids[i] for i in kept])
