"""``neroli detectors``: every detector in a table, or all about one."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any

import typer

from neroli.cli.common import Json, emit, reported


def detectors(
    name: Annotated[str | None, typer.Argument(help="Say all about this one.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The table as docs/detectors.md has it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the detectors, or say all about one: formula, paper, hyper-parameters, assumptions."""
    with reported(as_json):
        from neroli.detectors import catalogue

        if name is not None:
            about = catalogue.facts(name)
            emit(as_json, about, lambda: _text(about))
        elif markdown:
            typer.echo(catalogue.markdown(), nl=False)
        else:
            every = [catalogue.facts(known) for known in catalogue.own_names()]
            emit(as_json, {entry["name"]: entry for entry in every}, lambda: _table(every))


def _table(every: list[dict[str, Any]]) -> str:
    width = max(len(entry["name"]) for entry in every)
    lines = [f"{entry['name']:<{width}}  {entry['measures']}" for entry in every]
    return "\n".join([*lines, "", "neroli detectors NAME says all about one."])


def _text(about: dict[str, Any]) -> str:
    explained = inspect.cleandoc(about["about"]).replace("``", "")
    lines = [f"{about['name']} ({about['class']})", "", explained, ""]
    for setting in about["hyperparameters"]:
        limits = f" ({setting['limits']})" if setting["limits"] else ""
        lines.append(
            f"  --set {setting['name']}={_shown(setting['default'])}: {setting['meaning']}{limits}"
        )
    lines += [f"assumes: {assumption}" for assumption in about["assumes"]]
    lines += [f"needs: {need}" for need in about["requires"]]
    if about["paper"] and about["paper"]["url"]:
        lines.append(about["paper"]["url"])
    return "\n".join(lines)


def _shown(default: Any) -> str:
    """A default as ``--set`` takes it."""
    if isinstance(default, tuple | list) and all(isinstance(part, str) for part in default):
        return ",".join(default)
    return default if isinstance(default, str) else json.dumps(default)
