"""What is shown of a DICOM file's values: by the standard's formulas, and as pydicom does."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian

from dicom_files import GREYS, SHIPPED, SMALL, failures, lookup_table, picture, write
from neroli.data.dicom import DicomFolder


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
