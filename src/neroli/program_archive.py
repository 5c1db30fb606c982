"""Archives of exported programs, looked through before torch loads them.

``torch.export.load`` unpickles objects, loads native libraries and evaluates text that it finds in
an archive. neroli lets it see only archives that hold a graph and plain tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from neroli.errors import ModelError

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
)
"""What an archive may hold, below its one root folder."""

_SHAPE_TERMS = re.compile(
    r"Symbol\('[a-z]\d+'|(positive|integer|nonnegative|negative|nonzero|real)=(True|False)"
    r"|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|-?\d+"
)
"""What a symbolic size may be made of; torch evaluates it."""


def check_without_code(path: Path) -> None:
    """Raise ModelError if there is no archive, or it holds anything but a graph and tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            roots = {name.partition("/")[0] for name in archive.namelist()}
            members = [name.partition("/")[2] for name in archive.namelist()]
            if len(roots) != 1 or "archive_format" not in members:
                raise ModelError(
                    f"{str(path)!r} is no exported program of this kind: save it with "
                    "torch.export.save of torch 2.9 or newer."
                )
            for name, member in zip(archive.namelist(), members, strict=True):
                if not _MEMBERS.fullmatch(member) or not _is_plain(archive, name):
                    raise ModelError(
                        f"The exported program {str(path)!r} holds {name!r}, which is or may hold "
                        "code that runs on loading: export a model of plain tensors."
                    )
    except FileNotFoundError:
        raise ModelError(f"There is no exported program {str(path)!r}.") from None
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise ModelError(f"Cannot read the exported program {str(path)!r}: {error}") from None


def _is_plain(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a member of an allowed name has nothing in it that torch would run."""
    if name.endswith("_config.json"):
        entries = json.loads(archive.read(name)).get("config", {}).values()
        return not any(entry.get("use_pickle") for entry in entries)
    if name.endswith("model.json"):
        content = json.loads(archive.read(name))
        sizes = (_SHAPE_TERMS.sub("", size) for size in _symbolic_sizes(content))
        return not content.get("guards_code") and all(not set(rest) - set("(), ") for rest in sizes)
    if name.endswith(".pt"):
        try:
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        except Exception:  # torch wraps the unpickler's own errors
            return False
    return True


def _symbolic_sizes(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "expr_str":
                yield str(value)
            else:
                yield from _symbolic_sizes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _symbolic_sizes(value)
