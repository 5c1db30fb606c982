"""Suites: built-in ones by name, those of a TOML file, and one of a user's own folders."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from neroli.benchmark.needs import needs
from neroli.benchmark.schema import Suite
from neroli.data.named.layouts import folder_names
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NeroliError

__all__ = ["Suite", "builtin_names", "describe", "own_suite", "read_suite", "with_model"]

_BUILTIN = Path(__file__).with_name("suites")


def builtin_names() -> list[str]:
    """The suites that neroli brings, sorted."""
    return sorted(path.stem for path in _BUILTIN.glob("*.toml"))


def describe(name: str) -> str:
    """What a suite is, and which files it needs where.

    Raises:
        InvalidInput: as ``read_suite``.
    """
    suite = read_suite(name)
    lines = [f"{suite.name}: {suite.about.strip()}"]
    needed = needs(suite)
    if needed:
        lines += ["", "Needs, below the folder given as --data DIR (or in DIR/data):"]
        lines += [f"- {need}" for need in needed]
    return "\n".join(lines)


def read_suite(name: str | Path) -> Suite:
    """A suite by its name, or from a TOML file.

    Args:
        name: one of ``builtin_names()``, or the path of a file.

    Raises:
        InvalidInput: if there is no such suite, or its file is not as it should be; the message
            names the file and the key.
    """
    if str(name) in builtin_names():
        return _read(_BUILTIN / f"{name}.toml")
    path = Path(name)
    if path.suffix.lower() == ".toml" or path.is_file():
        suite = _read(path)
        suite._file = path.resolve()
        return suite
    near = difflib.get_close_matches(str(name).lower(), builtin_names(), n=1)
    known = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(builtin_names())};"
    raise InvalidInput(f"There is no suite {str(name)!r}: {known} an own one is a .toml file.")


def own_suite(
    model: str,
    weights: Path | str | None,
    id: Path | str,
    ood: Sequence[tuple[str, Path | str]],
    *,
    head: str | None = None,
    preprocessing: Preprocessing | None = None,
    layers: Sequence[str] = (),
    detectors: str | Sequence[str] = "one-pass",
    seed: int = 0,
) -> Suite:
    """A suite of a model and folders of images.

    Args:
        model, weights, head: as ``neroli.models.load_classifier``.
        id: a folder with ``train`` and ``test`` in it, and perhaps ``calibration`` or ``val``; or
            anything with images of the classes, of which half is for training, a fifth for
            calibration, and the rest for the test.
        ood: nearness ("near" or "far") and path of each OOD set, which is called as its folder.
        preprocessing: instead of what the model states.
        layers: for detectors that look at layers.
        detectors: as in a suite file.
        seed: of the split, and of all that is drawn.

    Raises:
        InvalidInput: if a folder or value is not as it should be.
    """
    paths = [Path(path).resolve() for _, path in ood]
    given = {
        "name": Path(id).resolve().stem or "own",
        "seed": seed,
        "model": {
            "spec": model,
            "weights": [] if weights is None else [str(Path(weights).resolve())],
            "head": head,
            "preprocessing": preprocessing,
            "layers": list(layers),
        },
        "id": _own_id(Path(id).resolve()),
        "ood": [
            {"name": name, "nearness": nearness, "images": str(path)}
            for name, path, (nearness, _) in zip(_distinct(paths), paths, ood, strict=True)
        ],
        "detectors": detectors if isinstance(detectors, str) else list(detectors),
    }
    return _validated(given, "The suite of these folders")


def with_model(
    suite: Suite, model: str, weights: Path | str | None = None, head: str | None = None
) -> Suite:
    """A suite with another model, of whose preprocessing and layers nothing is known.

    Args:
        suite: which.
        model, weights, head: as ``neroli.models.load_classifier``.
    """
    given = {
        "spec": model,
        "head": head,
        "weights": [] if weights is None else [str(Path(weights).resolve())],
    }
    changed = suite.model_copy(update={"model": type(suite.model).model_validate(given)})
    changed._file = suite._file
    return changed


def _own_id(folder: Path) -> dict[str, Any]:
    """The ID images of a folder: its parts, or all of it and how to split it."""
    parts = folder_names(folder) if folder.is_dir() else []
    if "train" not in parts:
        return {"all": str(folder), "split": [0.5, 0.2, 0.3]}
    if "test" not in parts:
        raise InvalidInput(
            f"{str(folder)!r} has 'train' but no 'test' in it: add the test images, or give one "
            "folder with a subfolder for each class, which is then split."
        )
    calibration = next((name for name in ("calibration", "val") if name in parts), None)
    found = {"train": "train", "calibration": calibration, "test": "test"}
    return {role: str(folder / name) for role, name in found.items() if name is not None}


def _distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, with a number where another has it too."""
    names: list[str] = []
    for path in paths:
        plain = path.name if path.is_dir() else path.stem
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain} ({number})"
        names.append(name)
    return names


def _read(path: Path) -> Suite:
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"Cannot read the suite {str(path)!r}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The suite {str(path)!r} is not TOML: {error}.") from None
    return _validated(given, str(path))


def _validated(given: Mapping[str, Any], where: str) -> Suite:
    try:
        return Suite.model_validate(given)
    except pydantic.ValidationError as error:
        raise InvalidInput(f"{where}: {_said(error, given)}") from None


def _said(error: pydantic.ValidationError, given: Mapping[str, Any]) -> str:
    """What is wrong with every key, unknown keys first: these may be others misspelled."""
    said: dict[str, list[str]] = {}
    details = error.errors()
    # An empty list of what is wrong inside is not wrong itself.
    inner = [d for d in details if d["type"] != "too_short" or not d["input"]]
    for detail in sorted(inner, key=lambda d: d["type"] not in _UNKNOWN):
        said.setdefault(_key(detail["loc"], given), []).append(_reason(detail))
    return "; ".join(f"{key}{_either(reasons)}" for key, reasons in said.items()) + "."


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _key(location: Sequence[int | str], given: Any) -> str:
    """A key's path, ``ood[1].nearness``, without what pydantic adds for alternatives."""
    path = ""
    for position, part in enumerate(location):
        if isinstance(part, int) and isinstance(given, list) and part < len(given):
            path += f"[{part}]"
        elif isinstance(given, Mapping) and (part in given or position == len(location) - 1):
            path += f".{part}" if path else str(part)
        else:
            break
        given = given.get(part) if isinstance(given, Mapping) else given[int(part)]
    return path or "the suite"


def _reason(detail: Any) -> str:
    """What is wrong with a key, to follow it."""
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, NeroliError):
        return f": {str(cause).rstrip('.')}"
    if cause is not None:
        return f" {cause}"
    if detail["type"] in _UNKNOWN:
        return " is no key that is known here"
    if detail["type"] == "missing":
        return " is missing"
    wanted = (detail["msg"].partition("should ")[2] or detail["msg"]).partition(", unable")[0]
    for theirs, ours in (("'", '"'), ("a valid tuple", "a list"), ("a valid string", "text")):
        wanted = wanted.replace(theirs, ours)
    return f" must {wanted}, got {json.dumps(detail['input'], default=str)}"


def _either(reasons: Sequence[str]) -> str:
    """The reasons of all alternatives of one key as one."""
    wanted, got = zip(*(reason.partition(", got ")[::2] for reason in reasons), strict=True)
    kinds = list(dict.fromkeys(wanted))
    rest = "".join(kind.replace(" must be", " or") for kind in kinds[1:])
    return f"{kinds[0]}{rest}, got {got[0]}" if got[0] else f"{kinds[0]}{rest}"
