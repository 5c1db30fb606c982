"""Which of the model's classes the labels of a data set stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neroli.errors import ClassMapError


@dataclass(frozen=True)
class ClassMatch:
    """The class of every label (a folder, or a table's entry) and by which rule it was found."""

    classes: dict[str, int]
    rule: str

    def names(self, num_classes: int) -> list[str]:
        """A name for each of the model's classes: its label, or its number."""
        labels = {index: name for name, index in self.classes.items()}
        return [labels.get(index, str(index)) for index in range(num_classes)]


def match_classes(
    labels: Sequence[str],
    num_classes: int,
    class_names: Sequence[str] | None = None,
    class_map: Path | str | None = None,
    noun: str = "label",
) -> ClassMatch:
    """Match the labels that a data set states to a model's classes.

    By the class map if there is one; else by the model's class names, if they are the labels; else
    by number, if all labels but those of folders are class indices; else in sorted order, when
    there are as many as classes.

    Args:
        labels: the distinct labels, sorted.
        num_classes: C.
        class_names: the model's C class names, if known.
        class_map: a JSON file ``{"label": class index or class name}``.
        noun: what messages call a label; ``"folder"`` for the names of folders.

    Raises:
        ClassMapError: if no rule applies, naming the label at fault.
    """
    by_name = _by_name(class_names or ())
    if class_map is not None:
        entries = _read_map(Path(class_map))
        absent = [label for label in labels if label not in entries]
        if absent:
            raise ClassMapError(
                f"{noun.capitalize()} {absent[0]!r} is not in the class map {str(class_map)!r}."
            )
        return ClassMatch(
            {label: _index(noun, label, entries[label], num_classes, by_name) for label in labels},
            "by the class map",
        )
    if set(labels) <= by_name.keys():
        return ClassMatch({label: by_name[label] for label in labels}, "by name")
    if noun != "folder" and all(_is_index(label, num_classes) for label in labels):
        return ClassMatch({label: int(label) for label in labels}, "by number")
    matched = [label for label in labels if label in by_name]
    if matched:
        stray = next(label for label in labels if label not in by_name)
        raise ClassMapError(
            f"{noun.capitalize()} {stray!r} is not one of the model's classes, though "
            f"{matched[0]!r} is: rename it, or give a class map (JSON: {noun} to class index)."
        )
    if len(labels) != num_classes:
        raise ClassMapError(
            f"The training images have {len(labels)} {noun}s and the model {num_classes} classes, "
            f"and the {noun}s are not the model's class names: give a class map "
            f"(JSON: {noun} to class index)."
        )
    return ClassMatch({label: index for index, label in enumerate(labels)}, "in sorted order")


def _by_name(class_names: Sequence[str]) -> dict[str, int]:
    names = list(class_names)
    return {name: index for index, name in enumerate(names) if names.count(name) == 1}


def _is_index(label: str, num_classes: int) -> bool:
    return label.isascii() and label.isdigit() and int(label) < num_classes


def _read_map(path: Path) -> dict[str, object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClassMapError(f"Cannot read the class map {str(path)!r}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ClassMapError(f"The class map {str(path)!r} is not JSON: {error}.") from None
    if not isinstance(entries, dict):
        raise ClassMapError(f"The class map {str(path)!r} must be a JSON object: label to class.")
    return entries


def _index(noun: str, label: str, entry: object, num_classes: int, by_name: dict[str, int]) -> int:
    if isinstance(entry, str) and entry in by_name:
        return by_name[entry]
    if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < num_classes:
        return entry
    raise ClassMapError(
        f"The class map sends {noun} {label!r} to {entry!r}, which is neither a class index in "
        f"0..{num_classes - 1} nor a class name of the model."
    )
