"""``neroli datasets``: the benchmark data sets known by name, and whether a folder holds one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import Json, emit, reported

if TYPE_CHECKING:
    from neroli.data.named import NamedData


def datasets(
    name: Annotated[str | None, typer.Argument(help="Describe this one.")] = None,
    root: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Look whether it is in this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the benchmark data sets known by name, describe one, or check a folder for it."""
    with reported(as_json):
        from neroli.data import named

        if name is None:
            about = {known: named.describe(known) for known in named.names()}
            emit(as_json, about, lambda: "\n\n".join(f"{n}\n  {a}" for n, a in about.items()))
        elif root is None:
            description = named.describe(name)
            emit(as_json, {"name": name, "about": description}, lambda: description)
        else:
            facts = _facts(named.load(name, root))
            emit(as_json, facts, lambda: _text(facts))


def _facts(data: NamedData) -> dict[str, Any]:
    return {
        "name": data.name,
        "classes": data.class_names,
        "id": {name: len(images) for name, images in data.id_sets.items()},
        "ood": [
            {"name": s.name, "images": len(s.images), "nearness": s.nearness} for s in data.ood_sets
        ],
        "remarks": data.remarks,
    }


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['name']}: {len(facts['classes'])} ID classes"]
    lines += [f"  ID   {name:<28}{count:>9,} images" for name, count in facts["id"].items()]
    for ood in facts["ood"]:
        kind = ood["nearness"] or "OOD"
        lines.append(f"  {kind:<5}{ood['name']:<28}{ood['images']:>9,} images")
    return "\n".join([*lines, *facts["remarks"]])
