"""One DICOM file, of bytes or on disk: what its header claims, and its frames as pictures.

A file that claims more frames than it has room for is unreadable. Of the header only what places
the pixels is used, and the tag that groups images, in memory.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from neroli.data.dicom_values import KINDS, OF_JPEG_2000, Array, shown
from neroli.data.images import MAX_PIXELS
from neroli.errors import InvalidInput, TooManyPixels, UnreadableImage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_FRAMES = 100_000
"""More in one file are refused; half an hour of video has fewer."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))


def prepare_pydicom(group: str | None) -> None:
    """Make sure that pydicom is there, knows the tag ``group`` and keeps quiet.

    What it warns of may quote a patient's header, and what it logs are errors that end up in the
    record of failures. Both are silenced for the whole process, since ``warnings.catch_warnings``
    is not safe with threads.

    Raises:
        InvalidInput: if pydicom is not installed, or DICOM has no such tag.
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
    prepare_pydicom(None)
    header = header_of(content)
    if (frames := frame_count(header, content)) != 1:
        raise UnreadableImage(f"holds {frames:,} frames; send them one by one")
    return int(header.Columns), int(header.Rows)


def decode(content: bytes) -> Image.Image:
    """The picture, in mode L or RGB, of the bytes of a DICOM file; of several frames the first.

    Raises:
        UnreadableImage, InvalidInput: as ``size_of``.
    """
    prepare_pydicom(None)
    return Image.fromarray(frame_of(content, 0))


def _file(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def header_of(source: Path | bytes, group: str | None = None) -> Dataset:
    """What a file says of its pixels, and in the tag ``group``, what it belongs to.

    Raises:
        UnreadableImage: if it is damaged, no DICOM file, or deflated.
    """
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


def owner_of(header: Dataset, group: str | None) -> str:
    """What an image belongs to, by the header; empty if that does not say.

    Raises:
        UnreadableImage: if the tag is damaged.
    """
    with _reasons():
        value = None if group is None else header.get(group)
        return "" if value is None else str(value).strip()


def frame_count(header: Dataset, source: Path | bytes) -> int:
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


def frame_of(source: Path | bytes, frame: int) -> Array:
    """A frame as a viewer shows it: ``[H, W]`` or ``[H, W, 3]`` uint8.

    Raises:
        UnreadableImage: if it cannot be decoded.
    """
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    header = header_of(source)
    frame_count(header, source)
    syntax = header.file_meta.TransferSyntaxUID
    if not get_decoder(syntax).is_available:
        raise UnreadableImage(
            f"needs a decoder for {syntax.name} that is not installed: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )
    with _reasons():
        dataset = Dataset()
        return shown(pixel_array(_file(source), ds_out=dataset, index=frame), dataset)
