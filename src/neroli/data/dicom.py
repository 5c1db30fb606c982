"""DICOM files as a source: every frame is an image, shown by the rules of ``dicom_values``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from neroli.data.arrays import picture_digest
from neroli.data.dicom_frames import frame_count, frame_of, header_of, owner_of, prepare_pydicom
from neroli.data.folders import files_below, folder_label, stamp
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import digest

EXTENSIONS = frozenset({".dcm", ".dicom"})


class DicomReader:
    """Reads single frames of DICOM files, each place a file and the position of a frame in it."""

    content: Content = "picture"

    def __init__(self, places: Sequence[tuple[Path, int]]) -> None:
        self.places = places
        self.paths = [path for path, _ in places]

    def __len__(self) -> int:
        return len(self.places)

    def stamp(self, position: int) -> str:
        path, frame = self.places[position]
        return f"{stamp(path)} {frame}"

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        picture = Image.fromarray(frame_of(*self.places[position]))
        return picture_digest(picture), picture


class DicomFiles(Pictures):
    """The frames of DICOM files in the order given.

    Args:
        paths: the files.
        names: what each is called in results, the file's name when left out; the frames of a file
            of several are called ``name#0``, ``name#1`` and so on.
        labels: class of each file, or None.
        groups: what each file belongs to, instead of the tag.
        group: keyword of the DICOM tag that says what an image belongs to, or None; a file without
            it is a group of its own, and if all are there are no groups.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no file.
        InvalidInput: if names are not as many as the files, DICOM has no such tag, or pydicom is
            not installed.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        names: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        *,
        group: str | None = "PatientID",
        workers: int | None = None,
    ) -> None:
        files = [Path(path) for path in paths]
        names = [path.name for path in files] if names is None else names
        for kind, given in (("names", names), ("labels", labels), ("groups", groups)):
            if given is not None and len(given) != len(files):
                raise InvalidInput(f"There are {len(given)} {kind} for {len(files)} files.")
        super().__init__(*_frames(files, names, group, labels, groups), workers=workers)


class DicomFolder(Pictures):
    """The frames of all DICOM files below a folder, in sorted order of the files.

    These end in ``.dcm`` or ``.dicom``, or in nothing or a number and begin as DICOM files do. They
    are named by their path relative to the folder. Labels are as of ``ImageFolder``.

    Args:
        root: the folder.
        group: as of ``DicomFiles``.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no DICOM file below it.
        InvalidInput: if it is not a folder, one below it cannot be read, DICOM has no such tag, or
            pydicom is not installed.
    """

    label_noun = "folder"

    def __init__(
        self, root: Path | str, *, group: str | None = "PatientID", workers: int | None = None
    ) -> None:
        files = files_below(Path(root), is_dicom)
        if not files:
            raise NotEnoughImages(
                f"There is no DICOM file in {str(root)!r} or below it "
                f"(looked for {', '.join(sorted(EXTENSIONS))} and files without a suffix)."
            )
        paths = [Path(root, file) for file in files]
        names = [file.as_posix() for file in files]
        labels = [folder_label(file) for file in files]
        super().__init__(*_frames(paths, names, group, labels), workers=workers)


def by_file(frames: Pictures) -> Pictures:
    """One picture a file, whose group is a pseudonym: what a table of them may hold."""
    assert isinstance(frames.reader, DicomReader)
    firsts = {frames.reader.paths[row]: position for position, row in enumerate(frames.rows)}
    files = frames.subset(sorted(firsts.values()))
    owners = files.groups or [str(frames.reader.paths[row]) for row in files.rows]
    files.groups = [digest(owner.encode(errors="surrogateescape")).hex()[:12] for owner in owners]
    return files


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file by its name, or without one that says so by its beginning."""
    suffix = path.suffix.lower()
    if suffix and not suffix[1:].isdigit():  # a file named by its UID seems to end in a number
        return suffix in EXTENSIONS
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _frames(
    files: Sequence[Path],
    names: Sequence[str],
    group: str | None,
    labels: Sequence[str] | None = None,
    owners: Sequence[str] | None = None,
) -> tuple[DicomReader, list[str], list[str] | None, list[str] | None]:
    """What ``Pictures`` is made of: a reader, and the name, label and group of every frame."""
    prepare_pydicom(group)
    places: list[tuple[Path, int]] = []
    titles: list[str] = []
    stated: list[str] = []
    groups: list[str] = []
    grouped = False
    unknown = [""] * len(files)
    rows = zip(files, names, labels or unknown, owners or unknown, strict=True)
    for path, name, label, known in rows:
        count, owner = 1, ""
        try:
            header = header_of(path, group)
            owner = known or owner_of(header, group)
            count = frame_count(header, path)
        except UnreadableImage:  # one image, recorded with its reason when it is read
            pass
        places += [(path, frame) for frame in range(count)]
        titles += [name] if count == 1 else [f"{name}#{frame}" for frame in range(count)]
        stated += [label] * count
        groups += [owner or str(path.resolve())] * count
        grouped |= bool(owner)
    return DicomReader(places), titles, stated if any(stated) else None, groups if grouped else None
