"""DICOM files for tests: pydicom's own, and written ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from neroli.data.arrays import picture_digest
from neroli.data.dicom import DicomFiles
from neroli.data.preprocessing import Preprocessing

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
