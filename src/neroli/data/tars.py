"""Tar archives of images, in the layout of WebDataset or as plain folders."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from neroli.data.folders import stamp
from neroli.data.images import EXTENSIONS, decode
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import digest


class TarReader:
    """Reads members of a tar archive where they lie in the file, in any order."""

    content: Content = "file"

    def __init__(self, path: Path, members: Sequence[tarfile.TarInfo]) -> None:
        self._places = [(member.offset_data, member.size) for member in members]
        self._odd = [_odd_kind(member) for member in members]
        self._path = path
        self._version = stamp(path)

    def __len__(self) -> int:
        return len(self._places)

    def stamp(self, position: int) -> str:
        return f"{self._version} {self._places[position]}"

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        offset, size = self._places[position]
        if self._odd[position]:
            raise UnreadableImage(f"is {self._odd[position]} in the archive, which is not followed")
        try:
            with self._path.open("rb") as file:
                missing = offset + size - os.fstat(file.fileno()).st_size
                if missing > 0:
                    raise UnreadableImage(f"is cut off: the archive ends {missing} bytes early")
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImage(f"cannot be read: {error.strerror}") from None
        return digest(content), decode(content)


class ImageTar(Pictures):
    """The images of an uncompressed tar archive, in its order, named by their path in it.

    The label of an image stands in the ``.cls`` file beside it (WebDataset: same name up to the
    first dot); where the archive has none, it is the folder the image lies in.

    Args:
        path: the archive.
        workers: threads that read and decode ahead of the network.

    Raises:
        InvalidInput: if it is not a whole, uncompressed tar archive, or an image lacks its label.
        NotEnoughImages: if there is no image in it.
    """

    def __init__(self, path: Path | str, *, workers: int | None = None) -> None:
        path = Path(path)
        images, classes = _members(path)
        if not images:
            raise NotEnoughImages(f"There is no image file in the archive {str(path)!r}.")
        names = [member.name for member in images]
        if classes:
            unlabelled = next((name for name in names if _key(name) not in classes), None)
            if unlabelled is not None:
                raise InvalidInput(
                    f"{unlabelled!r} in {str(path)!r} has no .cls file, though others have."
                )
            labels = [classes[_key(name)] for name in names]
        else:
            labels = [PurePosixPath(name).parent.name for name in names]
        super().__init__(
            TarReader(path, images), names, labels if any(labels) else None, workers=workers
        )


def _members(path: Path) -> tuple[list[tarfile.TarInfo], dict[str, str]]:
    """The image files of an archive, and the labels in its ``.cls`` files by key."""
    images, classes = [], {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                suffix = PurePosixPath(member.name).suffix.lower()
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if suffix in EXTENSIONS:
                    images.append(member)
                elif suffix == ".cls" and member.isfile():
                    file = archive.extractfile(member)
                    assert file is not None  # it is a file
                    classes[_key(member.name)] = file.read(1024).decode().strip()
            _check_end(path, archive.offset)
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{str(path)!r} cannot be read as an uncompressed tar archive: {error}."
        ) from None
    return images, classes


def _check_end(path: Path, offset: int) -> None:
    """Raise ReadError if the archive does not end where reading it did: tarfile stops at damage.

    Behind the last member there are zeros alone.
    """
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(tarfile.BLOCKSIZE)
        while rest and not any(rest):
            rest = file.read(2**20)
        if rest or offset >= file.tell():
            raise tarfile.ReadError(
                f"it is damaged or cut off after {offset:,} bytes, or several archives in one file"
            )


def _odd_kind(member: tarfile.TarInfo) -> str:
    """What a member is that is no plain file; empty if it is one."""
    if member.issym() or member.islnk():
        return "a link"
    if member.issparse():
        return "a sparse file"
    return "" if member.isfile() else "a special file"


def _key(name: str) -> str:
    """What the files of one sample share: the path up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return os.path.join(folder, file.partition(".")[0])
