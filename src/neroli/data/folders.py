"""Image files as a source: lists of them, and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from neroli.data.images import EXTENSIONS, read_image
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.files import digest


class FileReader:
    """Reads image files."""

    content: Content = "file"

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def stamp(self, position: int) -> str:
        return stamp(self.paths[position])

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        content, picture = read_image(self.paths[position])
        return digest(content), picture


class ImageFiles(Pictures):
    """Image files in the order given.

    Args:
        paths: the files.
        labels: true class of each, or None; see ``Pictures``.
        names: what each is called in results; the file's name when left out.
        groups: what each belongs to, or None; see ``Pictures``.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no file.
        InvalidInput: if labels, names or groups are not as many as the files.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        labels: Sequence[int] | Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        files = [Path(path) for path in paths]
        names = [path.name for path in files] if names is None else names
        super().__init__(FileReader(files), names, labels, groups, workers=workers)


class ImageFolder(Pictures):
    """All image files below a folder, in sorted order, named by their path relative to it.

    The label of an image is its first-level subfolder; if all lie in the folder itself there are
    none.

    Args:
        root: the folder.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no image file below it.
        InvalidInput: if it is not a folder, or one below it cannot be read.
    """

    label_noun = "folder"

    def __init__(self, root: Path | str, *, workers: int | None = None) -> None:
        self._root = Path(root)
        files = files_below(self._root, lambda path: path.suffix.lower() in EXTENSIONS)
        if not files:
            raise NotEnoughImages(
                f"There is no image file in {str(root)!r} or below it "
                f"(looked for {', '.join(sorted(EXTENSIONS))})."
            )
        labels = [folder_label(file) for file in files]
        super().__init__(
            FileReader([self._root / file for file in files]),
            [file.as_posix() for file in files],
            labels if any(labels) else None,
            workers=workers,
        )

    def label_names(self) -> list[str]:
        """The first-level subfolders, in a whole folder also those without an image, sorted."""
        if self.stated_labels is None or len(self) < len(self.reader):
            return super().label_names()
        folders = (path for path in self._root.iterdir() if path.is_dir())
        return sorted(path.name for path in folders if not path.name.startswith("."))

    def _unlabelled(self, name: str, label: str) -> str:
        if label:
            return super()._unlabelled(name, label)
        return (
            f"{name!r} in {str(self._root)!r} lies in no class folder: move it into the subfolder "
            "of its class, or out of the training images."
        )


def folder_label(file: Path) -> str:
    """The first-level subfolder that a file, relative to the root, lies in; empty if in none."""
    return file.parts[0] if len(file.parts) > 1 else ""


def files_below(root: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The wanted files below a folder, relative to it and sorted; linked folders once, none hidden.

    Raises:
        InvalidInput: if it is not a folder, or one below it cannot be read.
    """
    if not root.is_dir():
        raise InvalidInput(f"{str(root)!r} is not a folder.")
    files = (path for path in _visible_files(root) if wanted(path))
    return sorted((path.relative_to(root) for path in files), key=Path.as_posix)


def _visible_files(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InvalidInput(f"The folder {error.filename!r} cannot be read: {error.strerror}.")

    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def stamp(path: Path) -> str:
    """Size and time of a file, to notice that it changed; empty if it cannot be read."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
