"""What loading a model gives, and what the loaders share."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError

MAX_CLASSES = 1_000_000
"""Weights of more classes are damaged."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and what it says of itself.

    Attributes:
        module: the network.
        preprocessing: how pictures become its input, if it says so.
        class_names: names of its C classes, if it says so.
        new_layers: tensors of its head that are untrained, since the weights are of other classes.
    """

    module: nn.Module
    preprocessing: Preprocessing | None = None
    class_names: list[str] | None = None
    new_layers: tuple[str, ...] = ()


def extra(name: str, module: str, wanted: str) -> ModuleType:
    """A module of an optional package.

    Raises:
        ModelError: if it is not installed, with the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{wanted} needs {name}: install neroli with its [{name}] extra ({error})."
        ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says that something is unknown: the nearest known name, if any."""
    near = difflib.get_close_matches(name, known, n=1)
    return f": {near[0]!r}?" if near else "."
