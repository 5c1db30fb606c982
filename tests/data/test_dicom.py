"""DICOM files: what of their values is shown, and what becomes of those that cannot be read."""

import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_windowing, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLSLossless

from neroli.data import dicom
from neroli.data.arrays import picture_digest
from neroli.data.dicom import DicomFiles, DicomFolder
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SMALL = Preprocessing(mean=(0.5,), std=(0.5,), resize=(8, 8))
MPEG4 = UID("1.2.840.10008.1.2.4.102")


def picture(path: Path, frame: int = 0) -> np.ndarray[Any, Any]:
    """A frame as the source's reader decodes it."""
    reader = DicomFiles([path], group=None).reader
    content, image = reader.read(frame)
    assert content == picture_digest(image)
    return np.asarray(image)


def failures(*paths: Path) -> dict[str, str]:
    batches = list(DicomFiles(paths).batches(SMALL, 100))
    return {failure.name: failure.reason for batch in batches for failure in batch.failures}


def write(path: Path, pixels: np.ndarray[Any, Any] | None, **tags: Any) -> Path:
    """A file of ``[H, W]`` monochrome pixels, with other tags by their keywords."""
    syntax = tags.pop("syntax", ExplicitVRLittleEndian)
    dataset = FileDataset(
        str(path),
        {},
        preamble=b"\0" * 128,
        file_meta=FileMetaDataset(),
        is_implicit_VR=False,
        is_little_endian=syntax.is_little_endian,
    )
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    if pixels is not None:
        bits = pixels.dtype.itemsize * 8
        dataset.Rows, dataset.Columns = pixels.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = "<" if syntax.is_little_endian else ">"
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=False)
    return path


def lookup_table(entries: list[int], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return Sequence([item])


GREYS = np.arange(-2000, 2000, 10, dtype=np.int16).reshape(20, 20)


def test_every_shipped_image_is_shown_by_the_rules() -> None:
    paths = sorted(SHIPPED.glob("*.dcm"))
    unread = failures(*paths)
    images = [path for path in paths if not {path.name, f"{path.name}#0"} & unread.keys()]
    assert len(images) >= 45
    for path in images:
        tolerance, expected = naively_shown(path)
        assert np.abs(picture(path) - expected).max() <= tolerance, path.name


def naively_shown(path: Path) -> tuple[float, np.ndarray[Any, Any]]:
    """The first frame by the formulas of the standard, and how far rounding may be from it."""
    header = Dataset()
    stored = pixel_array(path, index=0, raw=True, ds_out=header).astype(np.float64)
    kind, tolerance = header.PhotometricInterpretation, 0.5001
    if kind.startswith("MONOCHROME"):
        values = stored * (header.get("RescaleSlope") or 1) + (header.get("RescaleIntercept") or 0)
        if "WindowCenter" in header:
            center, width = (
                np.atleast_1d(header[f"Window{part}"].value)[0] for part in ("Center", "Width")
            )
            shares = (values - (center - 0.5)) / (width - 1) + 0.5  # PS3.3 C.11.2.1.2.1
        elif header.BitsStored == 1:
            shares = stored
        else:
            shares = (values - values.min()) / max(1e-9, values.max() - values.min())
    elif kind == "PALETTE COLOR":
        tables = [
            np.frombuffer(header[f"{colour}PaletteColorLookupTableData"].value, "<u2")
            for colour in ("Red", "Green", "Blue")
        ]
        shares = np.stack([table[stored.astype(int)] for table in tables], axis=-1) / 65535
    elif kind.startswith("YBR_FULL"):  # PS3.3 C.7.6.3.1.2
        light, blue, red = stored[..., 0], stored[..., 1] - 128, stored[..., 2] - 128
        rgb = [light + 1.402 * red, light - 0.344136 * blue - 0.714136 * red, light + 1.772 * blue]
        shares, tolerance = np.stack(rgb, axis=-1) / 255, 1
    else:
        shares = stored / (2.0**header.BitsStored - 1)
    return tolerance, np.clip(shares, 0, 1) * 255


def test_shipped_images_of_most_kinds_can_be_read() -> None:
    source = DicomFolder(SHIPPED)
    batches = list(source.batches(SMALL, 64))
    read = {name for batch in batches for name in batch.names}
    assert {
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "SC_rgb_rle_2frame.dcm#1",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_palette.dcm",
        "examples_ybr_color.dcm#29",
        "liver_1frame.dcm",
        "rtdose.dcm#14",
    } <= read
    assert len(read) >= 100
    recorded = {failure.name for batch in batches for failure in batch.failures}
    assert read | recorded == set(source.names) and not read & recorded
    assert "test-SR.dcm" in recorded and "dicomdirtests/DICOMDIR" in recorded


def test_the_encoding_of_the_pixels_does_not_change_the_picture() -> None:
    plain = picture(SHIPPED / "MR_small.dcm")
    for other in ("RLE", "bigendian", "implicit", "expb"):
        assert np.array_equal(picture(SHIPPED / f"MR_small_{other}.dcm"), plain), other
    two = SHIPPED / "SC_rgb_rle_2frame.dcm"
    assert np.array_equal(picture(two), picture(SHIPPED / "SC_rgb_rle.dcm"))
    assert np.array_equal(picture(two, 1), 255 - picture(two, 0))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in pydicom's sigmoid
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (0.5, 1)])
def test_windows_are_those_of_pydicom(
    tmp_path: Path, function: str, center: float, width: float
) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "VOILUTFunction": function}
    window = {"WindowCenter": [center, 7], "WindowWidth": [width, 9]}
    path = write(tmp_path / "a.dcm", GREYS, **tags, **window)
    displayed = apply_windowing(GREYS * 2.0 - 100, pydicom.dcmread(path))
    low, high = (2.0 * end - 100 for end in (-(2**15), 2**15 - 1))
    expected = (displayed - low) / (high - low) * 255
    assert np.abs(picture(path) - expected).max() <= 0.5001


def test_a_window_is_cut_off_where_the_standard_says(tmp_path: Path) -> None:
    values = np.array([[0, 90, 91, 100, 110, 111, 255]], dtype=np.uint8)
    path = write(tmp_path / "a.dcm", values, WindowCenter=100.5, WindowWidth=21)
    assert picture(path).tolist() == [[0, 0, 13, 128, 255, 255, 255]]
    step = write(tmp_path / "b.dcm", values, WindowCenter=100.5, WindowWidth=1)
    assert picture(step).tolist() == [[0, 0, 0, 0, 255, 255, 255]]


def test_monochrome1_is_the_negative(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = write(tmp_path / "a.dcm", values)
    assert np.array_equal(picture(plain), values)
    negative = write(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(picture(negative), 255 - values)


def test_without_a_window_a_frame_is_shown_from_its_least_to_its_greatest_value(
    tmp_path: Path,
) -> None:
    frames = np.array([[[100, 200]], [[100, 500]], [[7, 7]]], dtype=np.uint16)
    path = write(tmp_path / "a.dcm", frames, NumberOfFrames=3)
    assert [picture(path, frame).tolist() for frame in range(3)] == [[[0, 255]]] * 2 + [[[0, 0]]]
    falling = {"RescaleSlope": -1, "RescaleIntercept": 0}
    assert picture(write(tmp_path / "b.dcm", frames[0], **falling)).tolist() == [[255, 0]]
    none = {"WindowCenter": 0, "WindowWidth": 0}
    assert picture(write(tmp_path / "c.dcm", frames[0], **none)).tolist() == [[0, 255]]


def test_values_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.zeros((1, 4), np.uint32))
    dataset = pydicom.dcmread(path)
    values = np.array([[np.nan, -1, 3, np.inf]], np.float32)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path)
    assert picture(path).tolist() == [[0, 0, 255, 255]]


def test_lookup_tables_come_before_windows(tmp_path: Path) -> None:
    values = np.array([[0, 10, 11, 12, 400]], dtype=np.uint16)
    window = {"WindowCenter": 1, "WindowWidth": 2}
    table = lookup_table([0, 128, 255], 10, 8)
    path = write(tmp_path / "a.dcm", values, VOILUTSequence=table, **window)
    assert picture(path).tolist() == [[0, 0, 128, 255, 255]]
    wide = lookup_table([number // 2 for number in range(512)], 0, 8)
    path = write(tmp_path / "b.dcm", values, VOILUTSequence=wide)
    assert picture(path).tolist() == [[0, 5, 5, 6, 200]]
    modality = lookup_table([1000, 3000, 2000], 10, 16)
    path = write(tmp_path / "c.dcm", values, ModalityLUTSequence=modality)
    assert picture(path).tolist() == [[0, 0, 255, 128, 128]]


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 9]], dtype=np.uint8)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
    entries = {"Red": [0, 257, 65535], "Green": [514, 0, 0], "Blue": [0, 0, 2570]}
    expected = [[[0, 2, 0], [1, 0, 0], [255, 0, 10], [255, 0, 10]]]
    whole, segmented = dict(tags), dict(tags)
    for colour, numbers in entries.items():
        name = f"{colour}PaletteColorLookupTableData"
        whole[name] = np.array(numbers, "<u2").tobytes()
        segmented[f"Segmented{name}"] = np.array([0, 3, *numbers], "<u2").tobytes()
    assert picture(write(tmp_path / "a.dcm", values, **whole)).tolist() == expected
    assert picture(write(tmp_path / "b.dcm", values, **segmented)).tolist() == expected


def test_big_endian_lookup_tables_are_read_as_such(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [2, 0, 16])
    item.add_new("LUTData", "OW", b"\x00\x00\x80\x00")
    values = np.array([[0, 1]], dtype=np.uint16)
    path = tmp_path / "a.dcm"
    write(path, values, syntax=ExplicitVRBigEndian, VOILUTSequence=Sequence([item]))
    assert picture(path).tolist() == [[0, 128]]


def test_an_image_of_every_frame_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    frames = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    write(tmp_path / "sub" / "b.dcm", frames, NumberOfFrames=3)
    write(tmp_path / "a.DICOM", frames[0])
    write(tmp_path / "1.2.840.77", frames[0])
    write(tmp_path / "IM0001", frames[0])
    (tmp_path / "README").write_text("no image " * 20)
    (tmp_path / "notes.txt").write_text("no image")
    source = DicomFolder(tmp_path)
    one = ["1.2.840.77", "IM0001", "a.DICOM"]
    assert source.names == [*one, "sub/b.dcm#0", "sub/b.dcm#1", "sub/b.dcm#2"]
    (batch,) = source.batches(Preprocessing(mean=(0.0,), std=(1.0,)), 9)
    assert torch.equal((batch.images[3:, 0] * 255).round(), torch.from_numpy(frames).float())
    assert (source.content, source.size) == ("picture", 6)


def test_images_are_grouped_by_patient(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 2), np.uint8)
    paths = [
        write(tmp_path / "a.dcm", pixels, NumberOfFrames=2, PatientID="Doe-17", PatientName="Doe"),
        write(tmp_path / "b.dcm", pixels[0], PatientID="Doe-17", StudyInstanceUID="1.2.5"),
        write(tmp_path / "c.dcm", pixels[0], PatientID="", PatientName="Roe"),
        write(tmp_path / "d.dcm", pixels[0]),
    ]
    own = [str(path.resolve()) for path in paths]
    assert DicomFiles(paths).groups == ["Doe-17"] * 3 + own[2:]
    assert DicomFiles(paths[2:]).groups is None
    assert DicomFiles(paths, group=None).groups is None
    by_study = DicomFolder(tmp_path, group="StudyInstanceUID").groups
    assert by_study == [own[0], own[0], "1.2.5", own[2], own[3]]
    with pytest.raises(InvalidInput, match="no tag 'Patient' to group images by"):
        DicomFiles(paths, group="Patient")


def test_nothing_of_the_header_is_in_what_is_kept(tmp_path: Path) -> None:
    tags = {"PatientID": "Doe-17", "PatientName": "Doe^Jane"}
    write(tmp_path / "a.dcm", GREYS, **tags)
    write(tmp_path / "b.dcm", None, **tags)
    source = DicomFolder(tmp_path)
    (batch,) = source.batches(SMALL, 9)
    assert batch.groups is not None and len(batch.failures) == 1
    shown = f"{source!r} {source.names} {source.fingerprint} {batch.names} {batch.failures}"
    assert "Doe" not in shown


def test_the_fingerprint_knows_a_changed_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", GREYS)
    first = DicomFiles([path]).fingerprint
    assert first == DicomFiles([path]).fingerprint
    write(path, np.zeros((3, 3), np.int16))
    assert first != DicomFiles([path]).fingerprint


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # of writing the file
def test_unreadable_files_are_recorded_and_the_others_read(tmp_path: Path) -> None:
    good = write(tmp_path / "good.dcm", GREYS)
    (tmp_path / "text.dcm").write_text("not DICOM at all")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.dcm").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "stub.dcm").write_bytes(good.read_bytes()[:200])
    write(tmp_path / "report.dcm", None)
    bare = pydicom.dcmread(good)
    del bare.PixelData
    bare.save_as(tmp_path / "bare.dcm")
    write(tmp_path / "big.dcm", GREYS, Rows=65535, Columns=65535)
    write(tmp_path / "cmyk.dcm", GREYS, PhotometricInterpretation="CMYK")
    write(tmp_path / "many.dcm", GREYS, NumberOfFrames=1_000_000)
    write(tmp_path / "minus.dcm", GREYS, NumberOfFrames=-3)
    write(tmp_path / "slope.dcm", GREYS, RescaleSlope="nan", RescaleIntercept=0)
    write(tmp_path / "voi.dcm", GREYS, WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC")
    write(tmp_path / "ybr.dcm", GREYS, PhotometricInterpretation="YBR_RCT")
    (tmp_path / "deflated.dcm").write_bytes((SHIPPED / "image_dfl.dcm").read_bytes())
    source = DicomFolder(tmp_path)
    assert all("#" not in name for name in source.names)
    batches = list(source.batches(SMALL, 4))
    assert [name for batch in batches for name in batch.names] == ["good.dcm"]
    reasons = {f.name: f.reason for batch in batches for f in batch.failures}
    assert reasons.keys() == set(source.names) - {"good.dcm"}
    expected = {
        "text.dcm": "is not a DICOM file",
        "empty.dcm": "is not a DICOM file",
        "cut.dcm": "is damaged",
        "report.dcm": "has no pixel data",
        "bare.dcm": "has no pixel data",
        "big.dcm": "is 65535x65535 pixels, more than the 89,000,000 allowed",
        "cmyk.dcm": "has the photometric interpretation 'CMYK'",
        "ybr.dcm": "has the photometric interpretation 'YBR_RCT'",
        "deflated.dcm": "is deflated as a whole",
        "many.dcm": "claims to have 1,000,000 frames, where there can be 1 at most",
        "minus.dcm": "claims to have -3 frames",
        "slope.dcm": "has a RescaleSlope that is not a finite number",
        "voi.dcm": "has the VOI LUT function 'CUBIC'",
    }
    assert {name: reasons[name][: len(start)] for name, start in expected.items()} == expected


def test_encodings_that_cannot_be_decoded_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    pixels = np.zeros((9, 9), np.uint8)
    jpeg = write(tmp_path / "jpeg.dcm", pixels)
    film = write(tmp_path / "film.dcm", pixels)
    for path, syntax in ((jpeg, JPEGLSLossless), (film, MPEG4)):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" * 9])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.NumberOfFrames = 1 if path == jpeg else 3000
        dataset.save_as(path)
    reasons = failures(jpeg, film)
    assert "needs a decoder for JPEG-LS Lossless" in reasons["jpeg.dcm"]
    assert "pip install pylibjpeg" in reasons["jpeg.dcm"]
    assert reasons["film.dcm"].startswith("is encoded as MPEG-4")


def test_a_file_that_vanishes_is_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", GREYS)
    source = DicomFiles([path])
    path.unlink()
    (batch,) = source.batches(SMALL, 9)
    assert "No such file" in batch.failures[0].reason


def test_workers_read_the_same_as_one_thread() -> None:
    path = SHIPPED / "examples_ybr_color.dcm"
    (one,) = DicomFiles([path], workers=1).batches(SMALL, 99)
    before = threading.active_count()
    many = list(DicomFiles([path], workers=4).batches(SMALL, 7, start=5))
    assert torch.equal(torch.cat([batch.images for batch in many]), one.images[5:])
    assert threading.active_count() == before


def test_pydicom_warns_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.dcm", GREYS)
    raw = (tmp_path / "a.dcm").read_bytes().replace(b"UI\x04\x001.2.3"[:8], b"UI\x04\x00a.b.")
    (tmp_path / "a.dcm").write_bytes(raw)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DicomFolder(SHIPPED)
        DicomFiles([tmp_path / "a.dcm", SHIPPED / "MR_small_padded.dcm"], group="SOPInstanceUID")
        list(DicomFolder(SHIPPED, group="StudyInstanceUID").batches(SMALL, 64))
    assert [str(warning.message) for warning in caught] == []
    assert caplog.text == ""


def test_what_cannot_be_a_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotEnoughImages, match="no DICOM file in"):
        DicomFolder(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        DicomFolder(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="There are 2 names for 1 files"):
        DicomFiles([tmp_path / "a.dcm"], ["a", "b"])
    monkeypatch.setitem(sys.modules, "pydicom.datadict", None)
    with pytest.raises(InvalidInput, match=r"needs pydicom: install neroli with its \[dicom\]"):
        DicomFiles([tmp_path / "a.dcm"])
    assert {".dcm", ".dicom"} == dicom.EXTENSIONS
    assert Image.MAX_IMAGE_PIXELS  # the guard of the JPEG decoders is left on
