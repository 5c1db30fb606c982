"""The three layouts of CIFAR-10 and CIFAR-100: the binary version, folders of images, arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neroli.data.arrays import ArrayFile
from neroli.data.folders import ImageFolder
from neroli.data.named.cifar_binary import binary_pictures
from neroli.data.named.layouts import folder_names, listed, missing_folders, present, simplified
from neroli.data.pictures import Pictures
from neroli.errors import InvalidInput


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its classes, and what its files are called.

    Args:
        name: what users call it, and its array files begin with.
        classes: the official names in the official order.
        binary_folder: what the binary version unpacks to.
        binary_files: the files of each split in it.
        label_bytes: how many stand before the pixels of a record.
        pickled_files: files that only the python version has.
    """

    name: str
    classes: tuple[str, ...]
    binary_folder: str
    binary_files: Mapping[str, tuple[str, ...]]
    label_bytes: int
    pickled_files: tuple[str, ...]

    @property
    def layout(self) -> str:
        """The layouts in a sentence."""
        files = ", ".join(name for split in self.binary_files.values() for name in split)
        return (
            f"{self.name} is the binary version ({self.binary_folder}: {files}), or folders of "
            f"images train/<class>/ and test/<class>/, or {self.name}_train*.npz and "
            f"{self.name}_test*.npz with 'images' and 'labels'; train or test may be left out."
        )

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has it, in any of the layouts."""
        return any(
            self._binary(folder, split)
            or self._has_classes(folder / split)
            or self._arrays(folder, split)
            for split in self.binary_files
        )

    def is_pickled_in(self, folder: Path) -> bool:
        """Whether a folder has the python version of it."""
        return all((folder / name).is_file() for name in self.pickled_files)

    def split(self, folder: Path, split: str) -> Pictures | None:
        """The images of a split with their labels; None if the folder has not got it.

        Raises:
            InvalidInput: if files or class folders are missing, damaged, or of other classes.
            NotEnoughImages: if a class folder or file is empty.
        """
        if files := self._binary(folder, split):
            missing = [path.name for path in files if not path.is_file()]
            if missing:
                raise InvalidInput(f"{str(folder)!r} lacks {listed(missing)}: {self.layout}")
            stated = folder / "fine_label_names.txt"
            if stated.is_file():
                self._check_names(stated, stated.read_text(errors="replace").split())
            return binary_pictures(files, self.label_bytes, len(self.classes))
        if self._has_classes(folder / split):
            return self._from_folders(folder / split)
        arrays = self._arrays(folder, split)
        if len(arrays) > 1:
            names = listed(path.name for path in arrays)
            raise InvalidInput(f"{str(folder)!r} has more than one {split} set, {names}: keep one.")
        return self._from_arrays(arrays[0]) if arrays else None

    def _binary(self, folder: Path, split: str) -> list[Path]:
        """All files of a split of the binary version, if any of them is there."""
        files = [folder / name for name in self.binary_files[split]]
        return files if any(path.is_file() for path in files) else []

    def _has_classes(self, folder: Path) -> bool:
        """Whether at least half of the classes have a folder; fewer may be of other data."""
        return folder.is_dir() and 2 * present(folder, self.classes) >= len(self.classes)

    def _arrays(self, folder: Path, split: str) -> list[Path]:
        return sorted(folder.glob(f"{self.name}_{split}*.npz"))

    def _from_folders(self, folder: Path) -> Pictures:
        spelled = {simplified(name): name for name in folder_names(folder)}
        missing = [name for name in self.classes if simplified(name) not in spelled]
        if missing:
            raise missing_folders(missing, folder, self.layout)
        indices = {spelled[simplified(name)]: i for i, name in enumerate(self.classes)}
        return ImageFolder(folder).labelled(indices)

    def _from_arrays(self, path: Path) -> Pictures:
        stated = npz_array(path, ("names",))
        if stated is not None:
            self._check_names(path, [str(name) for name in stated.tolist()])
        images = ArrayFile(path)
        if images.labels is None or not set(images.labels) <= set(range(len(self.classes))):
            raise InvalidInput(
                f"{str(path)!r} must have 'labels' that are class indices from 0 to "
                f"{len(self.classes) - 1}."
            )
        return images

    def _check_names(self, path: Path, names: Sequence[str]) -> None:
        """Refuse data whose indices would mean other classes than the official ones."""
        for index, (ours, theirs) in enumerate(zip(self.classes, names, strict=False)):
            if ours != theirs:
                raise InvalidInput(
                    f"{str(path)!r} calls class {index} {theirs!r}, which in {self.name} is "
                    f"{ours!r}: give data with the official classes."
                )
        if len(names) != len(self.classes):
            raise InvalidInput(
                f"{str(path)!r} names {len(names)} classes; {self.name} has {len(self.classes)}."
            )


def npz_array(path: Path, names: Sequence[str]) -> np.ndarray[Any, Any] | None:
    """The first array of these names in an ``.npz`` file, if there is one.

    Raises:
        InvalidInput: if the file cannot be read or the array holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = next((name for name in names if name in file), None)
            return None if found is None else np.asarray(file[found])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(f"Cannot read the arrays of {str(path)!r}: {error}") from None
