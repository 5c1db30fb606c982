"""Benchmark data sets by name, embedded or from files that users have downloaded themselves.

Each checks its layout and says what is missing; nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from neroli.data.named import cifar, digits, gastro, imagenet, medical_mnist, openmibood
from neroli.data.named.sets import Benchmark, NamedData, OODSet
from neroli.errors import InvalidInput

__all__ = ["NamedData", "OODSet", "check", "describe", "is_embedded", "load", "names"]

_FAMILIES = (gastro, medical_mnist, cifar, imagenet, openmibood, digits)
_BENCHMARKS: dict[str, Benchmark] = {
    entry.name: entry for family in _FAMILIES for entry in family.BENCHMARKS
}


def names() -> list[str]:
    """The names that ``load`` knows."""
    return list(_BENCHMARKS)


def describe(name: str) -> str:
    """What a benchmark is, the layout expected on disk, its sets and how many images they have.

    Raises:
        InvalidInput: if there is none of that name.
    """
    return _benchmark(name).about


def is_embedded(name: str) -> bool:
    """Whether a benchmark needs no folder.

    Raises:
        InvalidInput: if there is none of that name.
    """
    return _benchmark(name).embedded


def check(name: str, **choices: Any) -> None:
    """Look whether ``load`` knows a name and choices, not what lies on disk.

    Raises:
        InvalidInput: if it does not.
    """
    benchmark = _benchmark(name)
    unknown = sorted(choices.keys() - set(benchmark.choices))
    if unknown:
        takes = ", ".join(benchmark.choices) or "none"
        raise InvalidInput(f"{name} has no choice {unknown[0]!r}; it has: {takes}.")


def load(name: str, root: Path | str | None = None, **choices: Any) -> NamedData:
    """A benchmark from a folder; the images themselves are read when they are needed.

    Args:
        name: which; see ``names``.
        root: its folder, or the one that folder lies in; not needed by one that is embedded.
        choices: ``id_classes`` of gastrovision, ``ood_classes`` of medical-mnist.

    Raises:
        InvalidInput: if the name or a choice is unknown, no folder is given, or the layout is
            another; the message says what is missing.
        NotEnoughImages: if a class or set has no image.
    """
    check(name, **choices)
    if is_embedded(name):
        return _benchmark(name).load(**choices)
    if root is None:
        raise InvalidInput(f"{name} must be downloaded: give the folder that it is in.")
    return _benchmark(name).load(Path(root), **choices)


def _benchmark(name: str) -> Benchmark:
    if name not in _BENCHMARKS:
        near = difflib.get_close_matches(name.lower(), _BENCHMARKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_BENCHMARKS)}."
        raise InvalidInput(f"There is no data set {name!r}: {hint}")
    return _BENCHMARKS[name]
