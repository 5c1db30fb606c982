"""DICOM files as a source: names, groups, and what becomes of those that cannot be read."""

import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import JPEGLSLossless

from dicom_files import GREYS, MPEG4, SHIPPED, SMALL, failures, write
from neroli.data import dicom
from neroli.data.dicom import DicomFiles, DicomFolder
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages


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
