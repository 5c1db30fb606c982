"""Which of the model's classes an image folder stands for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neroli.errors import ClassMapError, InvalidInput


@dataclass(frozen=True)
class ClassFolders:
    """The class of every first-level subfolder by name, and by which rule it was found."""

    classes: dict[str, int]
    rule: str

    def names(self, num_classes: int) -> list[str]:
        """A name for each of the model's classes: its folder's, or its number."""
        folders = {index: name for name, index in self.classes.items()}
        return [folders.get(index, str(index)) for index in range(num_classes)]


def match_folders(
    root: Path | str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    class_map: Path | str | None = None,
) -> ClassFolders:
    """Match the subfolders of ``root`` to a model's classes.

    By the class map if there is one; else by the model's class names, if the folders bear them;
    else in sorted order, when there are as many as classes.

    Args:
        root: a folder with one subfolder a class.
        num_classes: C.
        class_names: the model's C class names, if known.
        class_map: a JSON file ``{"folder": class index or class name}``.

    Raises:
        ClassMapError: if no rule applies, naming the folder at fault.
        InvalidInput: if ``root`` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InvalidInput(f"{str(root)!r} is not a folder.")
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ClassMapError(
            f"{str(root)!r} has no subfolders: training images belong in one subfolder a class."
        )
    by_name = _by_name(class_names or ())
    if class_map is not None:
        entries = _read_map(Path(class_map))
        absent = [folder for folder in folders if folder not in entries]
        if absent:
            raise ClassMapError(f"Folder {absent[0]!r} is not in the class map {str(class_map)!r}.")
        return ClassFolders(
            {folder: _index(folder, entries[folder], num_classes, by_name) for folder in folders},
            "by the class map",
        )
    if set(folders) <= by_name.keys():
        return ClassFolders({folder: by_name[folder] for folder in folders}, "by name")
    matched = [folder for folder in folders if folder in by_name]
    if matched:
        stray = next(folder for folder in folders if folder not in by_name)
        raise ClassMapError(
            f"Folder {stray!r} is not one of the model's classes, though {matched[0]!r} is: rename "
            "it, or give a class map (JSON: folder name to class index)."
        )
    if len(folders) != num_classes:
        raise ClassMapError(
            f"{str(root)!r} has {len(folders)} subfolders and the model {num_classes} classes, and "
            "the folders do not bear the model's class names: give a class map "
            "(JSON: folder name to class index)."
        )
    return ClassFolders({name: index for index, name in enumerate(folders)}, "in sorted order")


def _by_name(class_names: Sequence[str]) -> dict[str, int]:
    names = list(class_names)
    return {name: index for index, name in enumerate(names) if names.count(name) == 1}


def _read_map(path: Path) -> dict[str, object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClassMapError(f"Cannot read the class map {str(path)!r}: {error.strerror}.") from None
    except ValueError as error:
        raise ClassMapError(f"The class map {str(path)!r} is not JSON: {error}.") from None
    if not isinstance(entries, dict):
        raise ClassMapError(f"The class map {str(path)!r} must be a JSON object: folder to class.")
    return entries


def _index(folder: str, entry: object, num_classes: int, by_name: dict[str, int]) -> int:
    if isinstance(entry, str) and entry in by_name:
        return by_name[entry]
    if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < num_classes:
        return entry
    raise ClassMapError(
        f"The class map sends folder {folder!r} to {entry!r}, which is neither a class index in "
        f"0..{num_classes - 1} nor a class name of the model."
    )
