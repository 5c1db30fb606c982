"""What is taken for an image, and how bodies are taken apart."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_files import GREYS, write
from neroli.data import images
from neroli.data.dicom import DicomFiles
from neroli.data.folders import ImageFiles
from neroli.errors import InvalidInput, UnreadableImage
from neroli.serve.settings import Limits
from neroli.serve.uploads import Refused, contents_of, decoded
from serving import colour_pictures, encoded, png_header

LIMITS = Limits(images=3, pixels=10_000, pixels_at_once=10_000)


def refused(data: bytes, limits: Limits = LIMITS) -> tuple[int, str]:
    with pytest.raises(Refused) as error:
        decoded(data, limits)
    return error.value.status, str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_an_image_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    picture = colour_pictures(1)[0].quantize() if kind == "GIF" else colour_pictures(1)[0]
    data = encoded(picture, kind)
    (tmp_path / "image.png").write_bytes(data)
    upload = decoded(data, LIMITS)
    np.testing.assert_array_equal(np.asarray(upload.picture), np.asarray(picture.convert("RGB")))
    digest, _ = ImageFiles([tmp_path / "image.png"]).reader.read(0)
    assert upload.content == digest.hex()  # the id it has elsewhere


def test_dicom_is_shown_and_known_as_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.dcm", GREYS, WindowCenter=0, WindowWidth=2000)
    upload = decoded(path.read_bytes(), LIMITS)
    digest, picture = DicomFiles([path]).reader.read(0)
    np.testing.assert_array_equal(np.asarray(upload.picture), np.asarray(picture))
    assert upload.content == digest.hex()


def test_dicom_of_several_frames_is_no_single_image(tmp_path: Path) -> None:
    path = write(tmp_path / "film.dcm", np.stack([GREYS, GREYS]), NumberOfFrames=2)
    assert refused(path.read_bytes()) == (422, "The image holds 2 frames; send them one by one.")


def test_a_size_that_is_only_claimed_is_refused_before_decoding(tmp_path: Path) -> None:
    status, message = refused(png_header(101, 100))
    assert status == 413 and message == "The image is 101x100 pixels, more than the 10,000 allowed."
    assert refused(png_header(100, 100))[0] == 422  # allowed, and broken
    for side in (60_000, 2**31 - 1):
        too_many = (413, "The image has more than the 10,000 pixels allowed.")
        assert refused(png_header(side, side)) == too_many
    path = write(tmp_path / "large.dcm", np.zeros((101, 100), np.uint8))
    assert refused(path.read_bytes())[0] == 413
    path = write(tmp_path / "huge.dcm", GREYS, Rows=65535, Columns=65535)
    assert refused(path.read_bytes()) == too_many
    default = "The image has more than the 50,000,000 pixels allowed."
    assert refused(path.read_bytes(), Limits()) == (413, default)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\x03\x04" + encoded(colour_pictures(1)[0]),
        encoded(colour_pictures(1)[0])[:60],
        b"\0" * 128 + b"DICM" + b"\xff" * 40,
    ],
    ids=["nothing", "eps", "svg", "zip before png", "truncated", "damaged dicom"],
)
def test_what_is_no_allowed_image_is_refused(data: bytes) -> None:
    status, message = refused(data)
    assert status == 422 and message.startswith("The image ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PhotometricInterpretation": "DOE JANE"}, "has a photometric interpretation for which"),
        ({"VOILUTFunction": "DOE JANE", "WindowCenter": 1, "WindowWidth": 2}, "has a VOI LUT"),
        ({"RescaleSlope": "1", "RescaleIntercept": "1", "BitsAllocated": 77}, "is damaged or"),
    ],
)
def test_why_an_image_is_unreadable_holds_nothing_of_it(
    tmp_path: Path, changes: dict[str, str | int], message: str
) -> None:
    status, told = refused(write(tmp_path / "scan.dcm", GREYS, **changes).read_bytes())
    assert status == 422 and told.startswith(f"The image {message}")
    assert "DOE" not in told and "77" not in told


def test_what_decoders_say_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("invalid literal for int(): b'DOE' in <_io.BytesIO object at 0x7f11>")

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(UnreadableImage, match="invalid literal"):
        images.decode(encoded(colour_pictures(1)[0].quantize()))
    told = refused(encoded(colour_pictures(1)[0].quantize()))
    assert told == (422, "The image is damaged or truncated.")


def form(*parts: bytes, headers: bytes = b'Content-Disposition: form-data; name="f"') -> bytes:
    return b"".join(b"--x\r\n%b\r\n\r\n%b\r\n" % (headers, part) for part in parts) + b"--x--\r\n"


def contents(body: bytes, kind: str = "multipart/form-data; boundary=x") -> list[bytes]:
    return contents_of(body, kind, LIMITS)


def test_the_parts_of_a_form_are_images_whatever_they_are_called() -> None:
    named = form(
        b"one", headers=b'Content-Disposition: form-data; name="a"; filename="../../etc/passwd"'
    )
    assert contents(named) == [b"one"]
    assert contents(form(b"one", b"\r\n--y\r\ntwo", b"")) == [b"one", b"\r\n--y\r\ntwo", b""]


def test_json_holds_base64() -> None:
    body = json.dumps({"images": [base64.b64encode(b"one").decode(), ""]}).encode()
    assert contents(body, "application/json; charset=utf-8") == [b"one", b""]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (form(b"1", b"2", b"3", b"4"), "multipart/form-data; boundary=x", 413),
        (form(*[b"."] * 10_000), "multipart/form-data; boundary=x", 413),
        (form(), "multipart/form-data; boundary=x", 422),
        (form(b"one")[:-6], "multipart/form-data; boundary=x", 400),
        (form(b"one"), "multipart/form-data; boundary=y", 400),
        (form(b"one"), "multipart/form-data", 400),
        (form(b"1", headers=b"X: " + b"y" * 100_000), "multipart/form-data; boundary=x", 400),
        (b'{"images": ["a", "b", "c", "d"]}', "application/json", 413),
        (b'{"images": ["not base64!"]}', "application/json", 422),
        (b'{"images": []}', "application/json", 422),
        (b'{"images": [1]}', "application/json", 422),
        (b'{"images": ["YQ=="], "path": "/etc/passwd"}', "application/json", 422),
        (b'{"images": ' + b"[" * 100_000, "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"image", "image/png", 415),
        (b"image", "", 415),
    ],
)
def test_other_bodies_are_refused(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Refused) as error:
        contents(body, kind)
    assert error.value.status == status


def test_a_limit_that_no_request_could_keep_is_refused() -> None:
    with pytest.raises(InvalidInput, match="The limit images \\(9\\) is above queue \\(8\\)"):
        Limits(images=9, queue=8)
    with pytest.raises(InvalidInput, match="The limit pixels must be positive, got 0"):
        Limits(pixels=0)
