"""Hyper-parameters as the command line takes them: ``--set NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def hyperparameters(detector: str, given: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters of a detector from ``NAME=VALUE``, values as JSON or as plain words.

    Raises:
        InvalidInput: if there is no such detector, or a text is not of that form.
    """
    from neroli.detectors import class_of
    from neroli.errors import InvalidInput

    defaults = {declared.name: declared.default for declared in class_of(detector).declared()}
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--set takes NAME=VALUE, got {text!r}.")
        if name in found:
            raise InvalidInput(f"--set gives {name} twice: leave one of them out.")
        found[name] = _value(value, defaults.get(name))
    return found


def _value(text: str, default: Any) -> Any:
    if isinstance(default, str) and not text.startswith(('"', "{")):
        return text
    if isinstance(default, tuple | list) and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return None if text.lower() == "none" else text
