"""What clients send: bodies taken apart in memory, images decoded by content within limits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pydantic
from PIL import Image
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from neroli.data import dicom_frames, images
from neroli.data.arrays import picture_digest
from neroli.errors import InvalidInput, NeroliError, TooManyPixels, UnreadableImage
from neroli.files import digest
from neroli.serve.settings import Limits


class Refused(NeroliError):
    """A request, or one of its images, that is not answered: an HTTP status and one sentence.

    Args:
        status: 400, 413, 415, 422, 429, 503 or another of HTTP's.
        message: one sentence for the client.
        retry_after: seconds after which it may be tried again; None if that is no use.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Upload:
    """An image that was sent.

    Attributes:
        content: hash of the file; of DICOM and arrays, of the pixels. 32 hexadecimal digits.
        picture: in mode L or RGB.
    """

    content: str
    picture: Image.Image


def decoded(data: bytes, limits: Limits) -> Upload:
    """The image in some bytes: a format of ``neroli.data.images``, or DICOM where pydicom is.

    What it is shows in the content; no name and no claimed type is asked.

    Raises:
        Refused: 413 if it has too many pixels, 415 if it is DICOM and pydicom is not installed, 422
            if it cannot be decoded, with the reason.
    """
    claimed_pixels(data, limits)
    with _refusing(limits):
        if _is_dicom(data):
            picture = dicom_frames.decode(data)
            return Upload(picture_digest(picture).hex(), picture)
        return Upload(digest(data).hex(), images.decode(data))


def claimed_pixels(data: bytes, limits: Limits) -> int:
    """How many pixels the header of an encoded image claims.

    Raises:
        Refused: as ``decoded``.
    """
    if not data:
        raise Refused(422, "The image is empty (0 bytes).")
    with _refusing(limits):
        width, height = dicom_frames.size_of(data) if _is_dicom(data) else images.size_of(data)
    if width * height > limits.pixels:
        raise Refused(
            413, f"The image is {width}x{height} pixels, more than the {limits.pixels:,} allowed."
        )
    return width * height


def of_array(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Upload:
    """An image given as pixels, ``[H, W, 3]`` uint8."""
    picture = Image.fromarray(pixels)
    return Upload(picture_digest(picture).hex(), picture)


def contents_of(body: bytes, content_type: str, limits: Limits) -> list[bytes]:
    """The encoded images in the body of a request, of JSON or of a form; names are ignored.

    Raises:
        Refused: 400 or 422 if the body is not what its type says, 413 if it holds too many images,
            415 if it is of another type.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"application/json":
        found = _of_json(body, limits)
    elif kind == b"multipart/form-data":
        found = _of_form(body, options.get(b"boundary", b""), limits)
    else:
        raise Refused(
            415,
            "Send images as multipart/form-data, or as application/json: "
            '{"images": ["<base64>", ...]}.',
        )
    if not found:
        raise Refused(422, "There is no image in the request.")
    return found


class Budget:
    """How much of something all requests together may hold at a time; used on the event loop."""

    def __init__(self, most: int, noun: str) -> None:
        self.most = most
        self.noun = noun
        self.held = 0

    def take(self, amount: int) -> None:
        """Take an amount, to be given back.

        Raises:
            Refused: 413 if it is more than there is for all, 503 if others hold it.
        """
        if amount > self.most:
            raise Refused(
                413, f"The request has {amount:,} {self.noun}, more than the {self.most:,} allowed."
            )
        if self.held + amount > self.most:
            raise Refused(503, f"Too many {self.noun} are being worked on: try again soon.", 1.0)
        self.held += amount

    def give(self, amount: int) -> None:
        """Give an amount back."""
        self.held -= amount


class _Images(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    images: Annotated[list[str], pydantic.FailFast()]


def _of_json(body: bytes, limits: Limits) -> list[bytes]:
    try:
        texts = _Images.model_validate_json(body).images
    except (pydantic.ValidationError, RecursionError):
        raise Refused(422, 'The JSON must be {"images": ["<base64>", ...]}.') from None
    _check_count(len(texts), limits)
    return [from_base64(text, position) for position, text in enumerate(texts)]


def from_base64(text: str, position: int) -> bytes:
    """The bytes that base64 text stands for.

    Raises:
        Refused: 422 if it is none, naming the position of the image in the request.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"Image {position} is not base64 text.") from None


def _of_form(body: bytes, boundary: bytes, limits: Limits) -> list[bytes]:
    """The parts of a form. Starlette's own parser would write large ones to the disk."""
    parts: list[bytearray] = []
    ended = False

    def begin() -> None:
        parts.append(bytearray())
        _check_count(len(parts), limits)

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_part_data": lambda data, start, stop: parts[-1].extend(data[start:stop]),
                "on_end": end,
            },
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError):
        ended = False
    if not boundary or not ended:
        raise Refused(400, "The body is no whole multipart/form-data of its stated boundary.")
    return [bytes(part) for part in parts]


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.images:
        raise Refused(413, f"A request may hold {limits.images:,} images: send the others apart.")


def _is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


@contextmanager
def _refusing(limits: Limits) -> Iterator[None]:
    try:
        yield
    except TooManyPixels:
        most = min(limits.pixels, images.MAX_PIXELS)
        raise Refused(413, f"The image has more than the {most:,} pixels allowed.") from None
    except UnreadableImage as error:
        raise Refused(422, f"The image {error.told}.") from None
    except InvalidInput as error:  # pydicom is not installed
        raise Refused(415, str(error)) from None
