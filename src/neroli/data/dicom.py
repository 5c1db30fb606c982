"""DICOM files as a source: every frame is an image, shown by the rules of ``dicom_values``.

A file that claims more frames than it has room for is unreadable. Of the header only what places
the pixels is used, and the tag that groups images, in memory.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from neroli.data.arrays import picture_digest
from neroli.data.dicom_values import KINDS, OF_JPEG_2000, Array, shown
from neroli.data.folders import files_below, folder_label, stamp
from neroli.data.images import MAX_PIXELS
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput, NotEnoughImages, TooManyPixels, UnreadableImage
from neroli.files import digest

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_FRAMES = 100_000
"""More in one file are refused; half an hour of video has fewer."""

EXTENSIONS = frozenset({".dcm", ".dicom"})
_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))


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
        picture = Image.fromarray(_frame(*self.places[position]))
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
    _prepare_pydicom(group)
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
            header = _header(path, group)
            owner = known or _owner(header, group)
            count = _frame_count(header, path)
        except UnreadableImage:  # one image, recorded with its reason when it is read
            pass
        places += [(path, frame) for frame in range(count)]
        titles += [name] if count == 1 else [f"{name}#{frame}" for frame in range(count)]
        stated += [label] * count
        groups += [owner or str(path.resolve())] * count
        grouped |= bool(owner)
    return DicomReader(places), titles, stated if any(stated) else None, groups if grouped else None


def _prepare_pydicom(group: str | None) -> None:
    """Make sure that pydicom is there, knows the tag and keeps quiet.

    What it warns of may quote a patient's header, and what it logs are errors that end up in the
    record of failures. Both are silenced for the whole process, since ``warnings.catch_warnings``
    is not safe with threads.
    """
    try:
        from pydicom.datadict import tag_for_keyword
    except ImportError:
        raise InvalidInput(
            "Reading DICOM files needs pydicom: install neroli with its [dicom] extra."
        ) from None
    if group is not None and tag_for_keyword(group) is None:
        raise InvalidInput(
            f"DICOM has no tag {group!r} to group images by: give a keyword such as 'PatientID' "
            "or 'StudyInstanceUID'."
        )
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever pydicom and decoders raise on a file into the reason it is unreadable."""
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except UnreadableImage:
        raise
    except InvalidDicomError:
        raise UnreadableImage("is not a DICOM file") from None
    except OSError as error:
        told = "cannot be read"
        raise UnreadableImage(f"{told}: {error.strerror or error}", told) from None
    except AttributeError:  # of the data set
        raise UnreadableImage("has no pixel data, or does not say how to decode them") from None
    except Exception as error:  # anything, on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        told = "is damaged or cannot be decoded"
        raise UnreadableImage(f"{told}: {reason}", told) from None


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height that the bytes of a DICOM file of one frame claim, without decoding it.

    Raises:
        UnreadableImage: if it cannot be decoded, or holds several frames; the message continues a
            sentence that begins with the name of the file.
        InvalidInput: if pydicom is not installed.
    """
    _prepare_pydicom(None)
    header = _header(content)
    if (frames := _frame_count(header, content)) != 1:
        raise UnreadableImage(f"holds {frames:,} frames; send them one by one")
    return int(header.Columns), int(header.Rows)


def decode(content: bytes) -> Image.Image:
    """The picture, in mode L or RGB, of the bytes of a DICOM file; of several frames the first.

    Raises:
        UnreadableImage, InvalidInput: as ``size_of``.
    """
    _prepare_pydicom(None)
    return Image.fromarray(_frame(content, 0))


def _file(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def _header(source: Path | bytes, group: str | None = None) -> Dataset:
    """What a file says of its pixels, and what it belongs to."""
    from pydicom import dcmread

    tags = "Rows Columns BitsAllocated SamplesPerPixel NumberOfFrames PhotometricInterpretation"
    with _reasons():
        # Of a deflated file pydicom inflates everything, a bomb too, just to read the header.
        if _encoding(source) == _DEFLATED:
            raise UnreadableImage("is deflated as a whole; save it with another transfer syntax")
        wanted = [*tags.split(), *([] if group is None else [group])]
        return dcmread(_file(source), stop_before_pixels=True, specific_tags=list(wanted))


def _encoding(source: Path | bytes) -> object:
    """The transfer syntax, which is in the first group of elements; None if they do not say."""
    from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble

    if isinstance(source, Path):
        return read_file_meta_info(source).get("TransferSyntaxUID")
    file = io.BytesIO(source)
    read_preamble(file, force=False)
    first_group = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    return first_group.get("TransferSyntaxUID")


def _owner(header: Dataset, group: str | None) -> str:
    """What an image belongs to, by the header; empty if that does not say."""
    with _reasons():
        value = None if group is None else header.get(group)
        return "" if value is None else str(value).strip()


def _frame_count(header: Dataset, source: Path | bytes) -> int:
    """How many frames a file has.

    Raises:
        UnreadableImage: if it has none that can be decoded, or not the room for so many.
    """
    from pydicom.pixels.decoders.base import get_decoder

    with _reasons():
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        if not rows or not columns:
            raise UnreadableImage("has no pixel data")
        if rows * columns > MAX_PIXELS:
            raise TooManyPixels(f"is {columns}x{rows} pixels, more than the {MAX_PIXELS:,} allowed")
        kind = header.get("PhotometricInterpretation")
        syntax = header.file_meta.get("TransferSyntaxUID")
        if kind not in KINDS or (kind in OF_JPEG_2000 and syntax not in _JPEG_2000):
            raise UnreadableImage(
                f"has the photometric interpretation {str(kind)[:20]!r}, for which there is no "
                "rule",
                "has a photometric interpretation for which there is no rule",
            )
        if not syntax:
            raise UnreadableImage("does not say how its pixels are encoded (no transfer syntax)")
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            raise UnreadableImage(
                f"is encoded as {syntax.name}, which is not decoded",
                "is encoded in a way that is not decoded",
            ) from None
        frames = int(header.get("NumberOfFrames") or 1)
        frame_bits = rows * columns * int(header.get("BitsAllocated") or 8)
        frame_bits *= int(header.get("SamplesPerPixel") or 1)
        if kind == "YBR_FULL_422":
            frame_bits = frame_bits * 2 // 3
        if not decoder.is_native:
            frame_bits = 8 * 8  # at least the header of a fragment
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        room = min(size * 8 // max(1, frame_bits), MAX_FRAMES)
        if frames != 1 and not 1 <= frames <= room:
            raise UnreadableImage(
                f"claims to have {frames:,} frames, where there can be {room:,} at most"
            )
        return frames


def _frame(source: Path | bytes, frame: int) -> Array:
    """A frame as a viewer shows it: ``[H, W]`` or ``[H, W, 3]`` uint8."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    header = _header(source)
    _frame_count(header, source)
    syntax = header.file_meta.TransferSyntaxUID
    if not get_decoder(syntax).is_available:
        raise UnreadableImage(
            f"needs a decoder for {syntax.name} that is not installed: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )
    with _reasons():
        dataset = Dataset()
        return shown(pixel_array(_file(source), ds_out=dataset, index=frame), dataset)
