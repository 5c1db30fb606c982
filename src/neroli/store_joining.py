"""Joining: one activation store of several, such as the shards of an extraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from neroli.errors import InvalidInput
from neroli.store import ActivationStore, Origin, StoreWriter, finished


def joined(parts: Sequence[Path | str], path: Path | str, key: str) -> ActivationStore:
    """One store of the images of several complete ones, in order; their files are shared.

    If ``path`` already is the complete store of ``key`` it is returned, even when the parts are
    gone. Anything else that is there is replaced. An interrupted joining leaves an incomplete store
    that is joined again, or that an extraction of the same key goes on with.

    Args:
        parts: folders of the stores; they are left as they are, and may be deleted afterwards.
        path: folder of the joined store.
        key: what it is of: ``neroli.extraction.store_key`` of the whole source, if the parts are
            consecutive parts of one.

    Raises:
        InvalidInput: if there is no part, ``path`` is one of them, or they differ in classifier,
            head, columns or dtype, or in how the network was run.
        ArtefactError: if a part is incomplete or damaged, or ``path`` cannot be written to.
    """
    if (store := finished(path, key)) is not None:
        return store
    stores = [ActivationStore(part) for part in parts]
    if not stores:
        raise InvalidInput("There are no stores to join: name at least one.")
    for store in stores:
        if store.path.resolve() == Path(path).resolve():
            raise InvalidInput(
                f"{str(path)!r} is one of the stores to join: choose another folder for the result."
            )
    first = next((store for store in stores if len(store)), stores[0])
    for store in stores:
        _check_alike(first, store)
    with StoreWriter(path, first.head, key, _origin(stores), anew=True) as writer:
        for store in stores:
            writer.adopt(store)
    return ActivationStore(path)


def _origin(stores: Sequence[ActivationStore]) -> Origin | None:
    """The origin of stores that are alike; if not known of all, without how the network was run.

    Raises:
        InvalidInput: if it was run in different ways.
    """
    origins = [store.origin for store in stores if store.origin is not None]
    ways = {origin.execution for origin in origins}
    if len(known := sorted(map(str, ways - {None}))) > 1:
        raise InvalidInput(
            "The stores were extracted with the network run in different ways "
            f"({'; '.join(known)}): join stores of one extraction."
        )
    if not origins:
        return None
    return origins[0] if len(ways) == 1 else replace(origins[0], execution=None)


def _but_execution(origin: Origin | None) -> Origin | None:
    return None if origin is None else replace(origin, execution=None)


def _check_alike(first: ActivationStore, other: ActivationStore) -> None:
    """Raise InvalidInput unless two stores are of one classifier and hold the same columns."""
    names = f"The stores {str(first.path)!r} and {str(other.path)!r}"
    one, two = (_but_execution(store.origin) for store in (first, other))
    if one != two:
        kind = (
            "classifiers"
            if one is None or two is None or one.weights_hash != two.weights_hash
            else f"heads, {one.head_name!r} and {two.head_name!r}"
            if one.head_name != two.head_name
            else f"sources, whose images are known by hashes of the {one.content} and the "
            f"{two.content}"
            if one.content != two.content
            else "preprocessing, input shapes or class names"
        )
        raise InvalidInput(f"{names} are of different {kind}: join stores of one extraction.")
    head, its = first.head, other.head
    if not (torch.equal(head.weight, its.weight) and torch.equal(head.bias, its.bias)):
        raise InvalidInput(f"{names} have different heads: join stores of one classifier.")
    if not len(other):
        return
    columns, others = first.columns(), other.columns()
    for name in sorted(columns.keys() | others.keys()):
        if columns.get(name) != others.get(name):
            said = " and ".join(
                f"{each[name][0]} {list(each[name][1])}" if name in each else "absent"
                for each in (columns, others)
            )
            raise InvalidInput(
                f"{names} differ in the column {name!r} ({said}): {_remedy(name, said)}."
            )


def _remedy(column: str, said: str) -> str:
    """What makes stores alike that differ in a column; labels and groups need no extraction."""
    if column in ("labels", "groups") and "absent" in said:
        return f"drop it where it is, with `neroli store prune --drop {column}`"
    return "extract them with the same requirements and dtype"
