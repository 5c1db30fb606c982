"""Sources of images from what users have: a path, in which shows what it is, or anything else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neroli.data.arrays import ArrayFile
from neroli.data.dicom import EXTENSIONS as DICOM
from neroli.data.dicom import DicomFiles, DicomFolder, is_dicom
from neroli.data.folders import ImageFiles, ImageFolder, files_below
from neroli.data.images import EXTENSIONS
from neroli.data.pictures import Pictures
from neroli.data.sources import IMAGE_BATCH, ImageLoader, ImageSource
from neroli.data.tables import TABLES, Columns, ImageTable
from neroli.data.tars import ImageTar
from neroli.data.video import Video
from neroli.errors import ArtefactError, InvalidInput
from neroli.store_files import is_store, looks_like_store, no_store, stores_in

ARRAYS = frozenset({".mat", ".npy", ".npz"})
TARS = frozenset({".tar"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})


def open_images(path: Path | str, *, columns: Columns | None = None, every: int = 1) -> ImageSource:
    """The images at a path.

    Args:
        path: a folder of images or of DICOM files, a CSV or Parquet table, a ``.npy`` or ``.npz``
            file or SVHN's ``.mat``, a tar, a video, a DICOM file, or a single image file.
        columns: of a table.
        every: of a video: only every n-th frame is taken.

    Raises:
        InvalidInput: if there is nothing, or nothing of these kinds.
        NotEnoughImages: if there is no image in it.
        ArtefactError: if it is a folder without images that is an activation store, or holds some.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _opened_folder(path)
        there = path.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a null byte
        raise InvalidInput(f"Cannot read {str(path)[:80]!r}: {error}.") from None
    if not there:
        raise InvalidInput(f"There is no file or folder {str(path)!r}.")
    if suffix in TABLES:
        return _opened_table(path, columns)
    if suffix in ARRAYS:
        return ArrayFile(path)
    if suffix in TARS:
        return ImageTar(path)
    if suffix in VIDEOS:
        return Video(path, every=every)
    if suffix in DICOM:
        return DicomFiles([path])
    if suffix in EXTENSIONS:
        return ImageFiles([path])
    known = sorted(ARRAYS.union(TABLES, TARS, VIDEOS, DICOM, EXTENSIONS))
    raise InvalidInput(
        f"{str(path)!r} is no source of images: give a folder, or a file that ends in "
        f"{', '.join(known)} (an archive such as .tar.gz must be unpacked first)."
    )


def _opened_table(path: Path, columns: Columns | None) -> ImageSource:
    table = ImageTable(path, columns)
    if all(Path(name).suffix.lower() in EXTENSIONS for name in table.names):
        return table
    files = [path.parent / name for name in table.names]
    if not all(is_dicom(file) or not file.exists() for file in files):
        return table  # what is no image is recorded as unreadable
    return DicomFiles(files, table.names, table.stated_labels, table.groups)


def _opened_folder(root: Path) -> ImageSource:
    found = {path.suffix.lower() for path in files_below(root, lambda path: True)}
    has_dicom = bool(found & DICOM)
    if not has_dicom and any(not suffix or suffix[1:].isdigit() for suffix in found):
        has_dicom = bool(
            files_below(root, is_dicom)
        )  # files without a suffix, as on hospital discs
    if has_dicom and found & EXTENSIONS:
        raise InvalidInput(
            f"{str(root)!r} holds both DICOM files and other images: give them as two folders."
        )
    if has_dicom:
        return DicomFolder(root)
    if not found & EXTENSIONS and is_store(root):
        raise ArtefactError(
            f"{str(root)!r} is an activation store, and the images themselves are needed: give "
            "those it was extracted from."
        )
    if not found & EXTENSIONS and (looks_like_store(root) or stores_in(root)):
        raise no_store(root)
    return ImageFolder(root)


def as_source(images: Any, batch_size: int = IMAGE_BATCH) -> ImageSource:
    """Images in any form as a source.

    Args:
        images: a source; a path, as ``open_images`` takes it; a list of image files; a data loader,
            a data set or an iterable of ``x``, ``(x, y)``, ``(x, y, name)`` or
            ``(x, y, name, group)`` batches; or a float tensor or uint8 array of images.
        batch_size: images at a time for tensors, arrays and data sets.

    Raises:
        InvalidInput: if they are none of these, or ``batch_size`` is below 1.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInput(f"batch_size must be 1 or more, got {batch_size!r}.")
    if hasattr(type(images), "fingerprint"):
        return cast(ImageSource, images)
    if isinstance(images, str | Path):
        return open_images(images)
    if isinstance(images, list | tuple) and images and all(_is_path(image) for image in images):
        return ImageFiles(images)
    if isinstance(images, Tensor | np.ndarray):
        rows = range(0, len(images), batch_size)
        return ImageLoader([images[start : start + batch_size] for start in rows])
    if isinstance(images, Dataset):
        return ImageLoader(DataLoader(images, batch_size, collate_fn=_collated))
    if not isinstance(images, Iterable):
        raise InvalidInput(f"Cannot take a {type(images).__name__} as a source of images.")
    return ImageLoader(images)


def without_labels(source: ImageSource) -> ImageSource:
    """Images whose labels are not needed; those of other data sets may be no class of the model."""
    return source.unlabelled() if isinstance(source, Pictures) else source


def _collated(samples: list[Any]) -> tuple[Any, ...]:
    """Samples ``x``, ``(x, y)`` and so on as a batch with a list of images."""
    if isinstance(samples[0], tuple | list):
        images, *others = zip(*samples, strict=True)
        return (list(images), *others)
    return (samples,)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)
