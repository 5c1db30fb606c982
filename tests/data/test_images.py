"""Decoding by stated rules; what there is no rule for is unreadable, with a reason."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neroli.data.images import array_pictures, decode, read_image, to_picture
from neroli.errors import InvalidInput, UnreadableImage

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_grey_and_colour_are_kept() -> None:
    for array in (GREY, COLOUR):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(array), "PNG")), array)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = np.array([[0, 257, 32768], [65535, 65278, 128]], dtype=np.uint16)
    picture = np.asarray(decode(encoded(Image.fromarray(deep), kind)))
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[0, 1, 128], [255, 254, 0]]


def test_cmyk_and_palette_become_rgb() -> None:
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF")), cmyk.convert("RGB"))
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), palette.convert("RGB"))


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, 1:, 3] = (128, 255)  # clear, half and opaque black
    picture = np.asarray(decode(encoded(Image.fromarray(rgba), "PNG")))
    assert picture[0].tolist() == [[255] * 3, [127] * 3, [0] * 3]


def test_exif_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    content = encoded(Image.fromarray(COLOUR), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content), np.rot90(COLOUR, -1))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(content).convert("L")).max() == 10


JPEG = encoded(Image.fromarray(DRAW.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")

UNREADABLE = {
    "empty file": (b"", "0 bytes"),
    "text renamed": (b"this is not an image", "not an image"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "damaged or truncated"),
    "truncated PNG": (encoded(Image.fromarray(COLOUR), "PNG")[:60], "damaged or truncated"),
    "gigapixel PNG": (png_header(60_000, 60_000), "89,000,000"),
    "120-megapixel PNG": (png_header(12_000, 10_000), "12000x10000 pixels, more than"),
    "float TIFF": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "mode 'F'"),
    "signed TIFF": (
        encoded(Image.fromarray(np.array([[-1000, 200]], dtype=np.int32)), "TIFF"),
        "mode 'I'",
    ),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "32-bit TIFF": (
        encoded(Image.fromarray(np.array([[70_000, 1]], dtype=np.int32)), "TIFF"),
        "mode 'I'",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("content", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_files_have_a_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason):
        read_image(path)


def test_a_missing_file_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "gone.png")


def test_arrays_are_one_image_or_many() -> None:
    assert len(array_pictures(np.zeros((5, 9, 7), np.uint8))) == 5
    assert len(array_pictures(np.zeros((5, 9, 7, 1), np.uint8))) == 5
    assert len(array_pictures(np.zeros((9, 7, 3), np.uint8))) == 1
    assert len(array_pictures(GREY)) == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 9, 7, 3)), "uint8, got float64"),
        (np.zeros((2, 9, 7, 5), np.uint8), r"\[2, 9, 7, 5\]"),
        (np.zeros((0, 9, 7, 3), np.uint8), r"\[0, 9, 7, 3\]"),
        (np.zeros(4, np.uint8), r"\[4\]"),
    ],
)
def test_arrays_of_other_kinds_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        array_pictures(array)


def test_a_binary_picture_becomes_grey() -> None:
    assert to_picture(Image.new("1", (3, 3), 1)).getextrema() == (255, 255)


def test_decoding_in_threads_leaves_the_processs_warnings_alone() -> None:
    """Python's catch_warnings is not thread-safe: it once silenced all warnings for good."""
    content = encoded(Image.fromarray(COLOUR), "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [content] * 500))
    assert warnings.filters == before
