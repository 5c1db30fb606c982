"""``neroli store``: look at, check, join and shrink the activations kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import ERROR, Json, StoreDtype, emit, reported

if TYPE_CHECKING:
    from neroli.store_checking import StoreFacts

app = typer.Typer(
    help="Look at, check, join and shrink the activations kept on disk.", no_args_is_help=True
)

Store = Annotated[Path, typer.Argument(help="Folder of an activation store.")]
Out = Annotated[Path, typer.Option(help="Folder for the new store.")]


@app.command()
def inspect(store: Store, as_json: Json = False) -> None:
    """Say what a store is of and what it holds; it may be incomplete or damaged."""
    with reported(as_json):
        from neroli.store_checking import inspected

        facts = inspected(store)
        emit(as_json, _facts(facts), lambda: _text(facts))


@app.command()
def verify(store: Store, as_json: Json = False) -> None:
    """Read all of a store and check that it is as it was written.

    Checked are changed bytes, shapes, NaN and infinity, and the logits against the head.

    Exit code 0: sound; 1: not, with what is wrong.
    """
    with reported(as_json):
        from neroli.store_checking import verified

        found = verified(store)
        facts: dict[str, Any] = {
            "store": str(store),
            "sound": not found.problems,
            "problems": list(found.problems),
            "images": found.images,
            "copies": found.copies,
            "shards_without_checksum": found.unprotected,
        }
        emit(as_json, facts, lambda: _verdict(facts))
        if found.problems:
            raise typer.Exit(ERROR)


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Folders of complete stores, in order.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Join stores of the same classifier into one; their files are shared, not copied.

    The stores may be deleted afterwards.
    """
    with reported(as_json):
        from neroli.files import text_digest
        from neroli.store import ActivationStore
        from neroli.store_checking import inspected
        from neroli.store_joining import joined

        key = text_digest(["joined", *(ActivationStore(store).key for store in stores)])
        _check_free(out, key)
        facts = inspected(joined(stores, out, key).path)
        emit(as_json, _facts(facts), lambda: _text(facts))


@app.command()
def prune(
    store: Store,
    out: Out,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="A column, as inspect names it; taps or extras for all of these; failures for the "
            "names of unreadable images. May be repeated."
        ),
    ] = None,
    drop_copies: Annotated[
        bool, typer.Option("--drop-copies", help="Of images with the same content keep the first.")
    ] = False,
    drop_not_finite: Annotated[
        bool, typer.Option("--drop-not-finite", help="Drop images with NaN or infinity.")
    ] = False,
    store_dtype: StoreDtype = None,
    as_json: Json = False,
) -> None:
    """Write a smaller store of what is still needed; the old one stays until you delete it."""
    with reported(as_json):
        from neroli.benchmark.wording import counted, size
        from neroli.errors import InvalidInput
        from neroli.store import ActivationStore
        from neroli.store_checking import inspected
        from neroli.store_pruning import pruned, pruned_key

        if not (drop or drop_copies or drop_not_finite or store_dtype):
            raise InvalidInput(
                "There is nothing to prune: name columns with --drop, or give --drop-copies, "
                "--drop-not-finite or --store-dtype float16."
            )
        options: dict[str, Any] = {
            "drop": drop or (),
            "copies": not drop_copies,
            "not_finite": not drop_not_finite,
            "dtype": store_dtype,
        }
        source = ActivationStore(store)
        _check_free(out, pruned_key(source, **options))
        facts = inspected(pruned(source, out, **options).path)
        before = inspected(store)
        emit(
            as_json,
            _facts(facts) | {"bytes_before": before.size, "images_before": before.images},
            lambda: (
                f"{_text(facts)}\n{'before':>12}  {counted(before.images, 'image')}, "
                f"{size(before.size)}"
            ),
        )


def _check_free(out: Path, key: str) -> None:
    """Raise ArtefactError if there is a complete store of something else."""
    from neroli.errors import ArtefactError
    from neroli.store import complete_key

    if complete_key(out) not in (None, key):
        raise ArtefactError(
            f"{str(out)!r} holds another activation store: delete it or choose another folder."
        )


def _facts(facts: StoreFacts) -> dict[str, Any]:
    from dataclasses import asdict

    columns = {
        name: {"dtype": dtype, "shape": list(shape)}
        for name, (dtype, shape) in facts.columns.items()
    }
    return {**asdict(facts), "columns": columns}


def _text(facts: StoreFacts) -> str:
    from neroli.benchmark.wording import counted, size

    origin = facts.origin
    lines = {"store": facts.path, "state": _state(facts)}
    if origin is None:
        lines["of"] = "a classifier it does not name"
    else:
        lines["of"] = f"weights {origin.weights_hash[:12]}, head {origin.head_name}"
        if origin.preprocessing is not None:
            lines["input"] = str(origin.preprocessing)
        if origin.execution is not None:
            lines["run as"] = str(origin.execution)
        if origin.class_names is not None:
            lines["classes"] = ", ".join(origin.class_names)
    lines["images"] = f"{facts.images}, and {facts.unreadable} unreadable"
    if facts.num_features is not None:
        lines["head"] = f"{facts.num_features} features to {facts.num_classes} classes"
    each = (f"{n} {dtype} {list(shape)}" for n, (dtype, shape) in facts.columns.items())
    lines["columns"] = f"\n{'':14}".join(each) or "none"
    lines["size"] = f"{size(facts.size)} in {counted(facts.shards, 'shard')}"
    return "\n".join(f"{name:>12}  {text}" for name, text in lines.items())


def _state(facts: StoreFacts) -> str:
    if facts.damaged:
        return f"damaged: {', '.join(facts.damaged)}; extract again"
    if not facts.complete:
        return "incomplete: run the extraction again, it goes on where it stopped"
    if facts.shards != facts.expected:
        return (
            f"damaged: the number of shards is {facts.shards} instead of {facts.expected}; "
            "extract again"
        )
    return "complete"


def _verdict(facts: dict[str, Any]) -> str:
    from neroli.benchmark.wording import counted

    lines = [f"{facts['store']}: {problem}" for problem in facts["problems"]]
    if not lines:
        lines = [f"{facts['store']} is sound: {counted(facts['images'], 'image')}."]
    if copies := facts["copies"]:
        have = "has" if copies == 1 else "have"
        lines.append(f"{counted(copies, 'image')} {have} the content of an earlier one.")
    if bare := facts["shards_without_checksum"]:
        were = "was" if bare == 1 else "were"
        lines.append(
            f"{counted(bare, 'shard')} {were} written without a checksum: there a changed byte "
            "may go unnoticed."
        )
    return "\n".join(lines)
