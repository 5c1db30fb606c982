"""The folders that a data set should have on disk: finding them, and saying which are missing."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from neroli.errors import InvalidInput


def folder_names(root: Path) -> list[str]:
    """The visible folders in a folder, sorted.

    Raises:
        InvalidInput: if it is not a folder, or cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except NotADirectoryError:
        raise InvalidInput(f"{str(root)!r} is not a folder.") from None
    except OSError as error:
        raise InvalidInput(f"The folder {str(root)!r} cannot be read: {error.strerror}.") from None


def folders_with(root: Path, has: Callable[[Path], bool]) -> list[Path]:
    """The folder, if it ``has`` what is looked for, or else those directly in it that do.

    Raises:
        InvalidInput: if it is not a folder.
    """
    inner = [root / name for name in folder_names(root)]
    inner = [folder for folder in inner if os.access(folder, os.R_OK | os.X_OK)]
    return [root] if has(root) else [folder for folder in inner if has(folder)]


def only_folder(root: Path, has: Callable[[Path], bool], name: str) -> Path | None:
    """The folder that ``has`` what is looked for, the root or one in it; None if there is none.

    Raises:
        InvalidInput: if the root is not a folder, or several in it would do.
    """
    found = folders_with(root, has)
    if len(found) > 1:
        raise InvalidInput(
            f"{str(root)!r} holds more than one folder that looks like {name}, "
            f"{listed(folder.name for folder in found)}: give one of them."
        )
    return found[0] if found else None


def simplified(name: str) -> str:
    """A class name without what differs between copies: case, spaces, ``_``, ``-``, quotes."""
    return re.sub(r"[\W_]", "", name.casefold())


def present(folder: Path, classes: Sequence[str]) -> int:
    """How many of the classes have a folder in a folder, however it is spelled."""
    return len(set(map(simplified, classes)) & set(map(simplified, folder_names(folder))))


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Some names for a message, and how many more there are."""
    names = list(names)
    more = len(names) - limit
    shown = ", ".join(map(repr, names[:limit]))
    return f"{shown} and {more:,} more" if more > 0 else shown


def count_remark(what: str, found: int, expected: int) -> list[str]:
    """A remark if there are not as many images as were published."""
    if found == expected:
        return []
    if found > expected:
        return [f"{what} has {found:,} images, more than the {expected:,} published."]
    return [f"{what} has {found:,} of {expected:,} images."]


def missing_folders(missing: Sequence[str], root: Path, layout: str) -> InvalidInput:
    """The error that names the folders a layout lacks."""
    count = f"{len(missing):,} folder{'s' if len(missing) > 1 else ''}"
    return InvalidInput(f"{str(root)!r} lacks {count}, {listed(missing)}: {layout}")


def known_class(name: str, classes: Sequence[str]) -> str:
    """A class as the data set spells it, from how a user does.

    Raises:
        InvalidInput: if there is no such class; the message says which is like it.
    """
    known = {simplified(each): each for each in classes}
    if simplified(name) not in known:
        near = difflib.get_close_matches(simplified(name), known, n=1)
        hint = f"did you mean {known[near[0]]!r}?" if near else f"known are {listed(classes, 99)}."
        raise InvalidInput(f"There is no class {name!r}: {hint}")
    return known[simplified(name)]
