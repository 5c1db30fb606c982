"""Data sets that are one folder a class: which classes are in-distribution, and how many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neroli.data.folders import ImageFolder
from neroli.data.named.layouts import (
    count_remark,
    known_class,
    listed,
    missing_folders,
    only_folder,
    present,
    simplified,
)
from neroli.data.named.sets import Benchmark, NamedData, OODSet
from neroli.data.pictures import Pictures
from neroli.data.tars import ImageTar
from neroli.errors import InvalidInput, NotEnoughImages


@dataclass(frozen=True)
class ClassFolders:
    """A data set of one folder a class, where every class that is not ID is a near OOD set.

    Folders match classes whatever their case, spaces, underscores and hyphens.

    Args:
        name: what users call it.
        about: what it is and where it comes from, for ``describe``.
        id_classes: the in-distribution classes, in the order of their indices.
        ood_classes: the others.
        total: how many images there are in all.
        counts: how many of each class, where that is known.
        choice: what the user may choose instead of the classes above.
        our_choice: the remark that those classes are neroli's choice, if they are.
        archive: a tar that may stand in for the folders.
        sample: how many of each class a known sample of the data has.
    """

    name: str
    about: str
    id_classes: tuple[str, ...]
    ood_classes: tuple[str, ...]
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    choice: Literal["id_classes", "ood_classes"] | None = None
    our_choice: str | None = None
    archive: str | None = None
    sample: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, sorted as trainers sort their folders: capitals first."""
        return tuple(sorted(self.id_classes + self.ood_classes))

    @property
    def layout(self) -> str:
        """The layout in a sentence."""
        archive = f", or the archive {self.archive!r}" if self.archive else ""
        return (
            f"{self.name} is one folder of images for each of {len(self.classes)} classes{archive}."
        )

    def benchmark(self) -> Benchmark:
        """The entry in the registry."""
        ids, oods = ", ".join(self.id_classes), ", ".join(self.ood_classes)
        about = (
            f"{self.about} {self.layout} ID: {ids}. OOD, each class a near set: {oods}. "
            f"{self.total:,} images in all, with no official split. {self.our_choice or ''}"
        )
        choices = (self.choice,) if self.choice else ()
        return Benchmark(self.name, about.strip(), self.load, choices)

    def load(self, root: Path, **choices: Sequence[str] | None) -> NamedData:
        """The data below a folder; see ``neroli.data.named.load``."""
        chosen = choices.get(self.choice) if self.choice else None
        id_classes, ood_classes = self._split(chosen)
        images = self._images(root)
        folders, others = self._folders(images, root)
        rows: dict[str, list[int]] = {folder: [] for folder in (*folders.values(), *others, "")}
        for row, label in enumerate(images.stated_labels or ()):
            rows[label].append(row)
        empty = [folder for folder in folders.values() if not rows[folder]]
        if empty:
            raise NotEnoughImages(f"There is no image of {listed(empty)} in {str(root)!r}.")
        indices = {folders[name]: index for index, name in enumerate(id_classes)}
        id_rows = sorted(row for folder in indices for row in rows[folder])
        remarks = self._count_remarks({name: len(rows[folders[name]]) for name in folders})
        if others:
            remarks.append(f"No class of {self.name}, and left out: {listed(others)}.")
        if self.our_choice and chosen is None:
            remarks.append(self.our_choice)
        id_sets = {"all": images.subset(id_rows).labelled(indices)}
        of_class = {name: images.subset(rows[folders[name]]) for name in ood_classes}
        ood_sets = [OODSet(name, found.unlabelled(), "near") for name, found in of_class.items()]
        return NamedData(self.name, id_classes, id_sets, ood_sets, remarks)

    def _split(self, chosen: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """The ID classes and the others, by default or as the user chose."""
        if chosen is None:
            return list(self.id_classes), list(self.ood_classes)
        names = [chosen] if isinstance(chosen, str) else chosen
        picked = [known_class(name, self.classes) for name in names]
        rest = [name for name in self.classes if name not in picked]
        ids, oods = (picked, rest) if self.choice == "id_classes" else (rest, picked)
        if len(set(picked)) < len(picked) or not ids:
            raise InvalidInput(f"{self.choice} must name each class once and leave some ID class.")
        return ids, oods

    def _images(self, root: Path) -> Pictures:
        """The images in the folder or archive, which state their class folders."""
        if self.archive and root.is_file():
            return ImageTar(root)
        folder = only_folder(root, lambda path: present(path, self.classes) > 0, self.name)
        if folder is not None:
            return ImageFolder(folder)
        if self.archive and (root / self.archive).is_file():
            return ImageTar(root / self.archive)
        raise missing_folders(self.classes, root, self.layout)

    def _folders(self, images: Pictures, root: Path) -> tuple[dict[str, str], list[str]]:
        """The folder of each class, and the folders that are of no class."""
        folders: dict[str, list[str]] = {}
        for label in filter(None, images.label_names()):
            folders.setdefault(simplified(label), []).append(label)
        found = {name: folders.pop(simplified(name), []) for name in self.classes}
        others = [label for labels in folders.values() for label in labels]
        for name, labels in found.items():
            if len(labels) > 1:
                raise InvalidInput(f"{str(root)!r} has {name!r} as {listed(labels)}: merge these.")
        missing = [name for name, labels in found.items() if not labels]
        if missing:
            also = f" It also has {listed(others)}." if others else ""
            raise missing_folders(missing, root, self.layout + also)
        return {name: labels[0] for name, labels in found.items()}, others

    def _count_remarks(self, found: Mapping[str, int]) -> list[str]:
        if self.sample and set(found.values()) == {self.sample}:
            return [f"This is a sample of {self.sample:,} images of each class of {self.name}."]
        if not self.counts:
            return count_remark(self.name, sum(found.values()), self.total)
        return [r for name in found for r in count_remark(name, found[name], self.counts[name])]
