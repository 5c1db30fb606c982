"""Array files and tar archives as sources, and what a path is opened as."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli.data.arrays import ArrayFile
from neroli.data.dicom import DicomFolder
from neroli.data.folders import ImageFiles, ImageFolder
from neroli.data.opening import open_images
from neroli.data.sources import as_images
from neroli.data.tables import ImageTable
from neroli.data.tars import ImageTar
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.files import digest
from networks import COLOURS, colour_images


def png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_are_their_images_in_order(tmp_path: Path, suffix: str) -> None:
    pictures, labels = colour_images(20)
    path = tmp_path / f"images.{suffix}"
    if suffix == "npy":
        np.save(path, pictures)
    else:
        np.savez(path, images=pictures, labels=labels, groups=np.repeat(["a", "b"], 10))
    source = ArrayFile(path)
    batches = list(source.batches(COLOUR_PREPROCESSING, 8))
    expected = as_images(pictures, COLOUR_PREPROCESSING)
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
    assert batches[1].names == tuple(str(i) for i in range(8, 16))
    if suffix == "npz":
        assert batches[1].labels is not None and batches[1].groups is not None
        assert batches[1].labels.tolist() == labels[8:16].tolist()
        assert len(batches[1].groups.unique(dim=0)) == 2
    (later,) = source.batches(COLOUR_PREPROCESSING, 20, start=15)
    assert torch.equal(later.images, expected[15:])


def test_grey_arrays_and_text_labels_are_understood(tmp_path: Path) -> None:
    grey = colour_images(6)[0][..., 0]
    np.savez(tmp_path / "grey.npz", images=grey, labels=np.array(["a", "b"] * 3))
    source = ArrayFile(tmp_path / "grey.npz")
    assert source.stated_labels == ["a", "b"] * 3
    expected = as_images(grey, COLOUR_PREPROCESSING)
    assert torch.equal(next(source.batches(COLOUR_PREPROCESSING, 6)).images, expected)


def test_equal_pictures_have_equal_ids_in_any_array_file(tmp_path: Path) -> None:
    pictures, _ = colour_images(4)
    np.save(tmp_path / "a.npy", pictures)
    np.savez(tmp_path / "b.npz", images=pictures[::-1])
    one, other = (
        next(ArrayFile(tmp_path / name).batches(COLOUR_PREPROCESSING, 4)).ids
        for name in ("a.npy", "b.npz")
    )
    assert one == other[::-1]
    assert len(set(one)) == 4


def test_array_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    pictures, labels = colour_images(4)
    np.savez(tmp_path / "names.npz", pictures=pictures)
    np.savez(tmp_path / "float.npz", images=pictures / 255)
    np.savez(tmp_path / "labels.npz", images=pictures, labels=labels[:3])
    np.savez(tmp_path / "kinds.npz", images=pictures, labels=labels / 2)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "empty.npy", pictures[:0])
    (tmp_path / "junk.npz").write_bytes(b"junk")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "empty.npy").read_bytes()[:40])
    for name, message in {
        "names.npz": "no array 'images'",
        "float.npz": "must be uint8 .* got float64",
        "labels.npz": "3 labels for 4 images",
        "kinds.npz": "labels .* must be one integer or text",
        "objects.npy": "Cannot read the arrays",
        "junk.npz": "Cannot read the arrays",
        "cut.npy": "Cannot read the arrays",
        "gone.npy": "Cannot read the arrays",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            ArrayFile(tmp_path / name)
    with pytest.raises(NotEnoughImages):
        ArrayFile(tmp_path / "empty.npy")


def test_svhn_is_read_as_matlab_keeps_it(tmp_path: Path) -> None:
    pictures, _ = colour_images(5)
    by_column = np.stack(list(pictures), axis=3)  # [H, W, 3, N]
    savemat(
        tmp_path / "test_32x32.mat", {"X": by_column, "y": np.array([[1], [10], [3], [9], [10]])}
    )
    source = open_images(tmp_path / "test_32x32.mat")
    assert isinstance(source, ArrayFile)
    assert source.labels == [1, 0, 3, 9, 0]  # the digit 0 is class 10 in the file
    (batch,) = source.batches(COLOUR_PREPROCESSING, 5)
    assert torch.equal(batch.images, as_images(pictures, COLOUR_PREPROCESSING))


def test_matlab_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    pictures = np.stack(list(colour_images(40)[0]), axis=3)
    savemat(tmp_path / "whole.mat", {"X": pictures}, do_compression=True)
    content = (tmp_path / "whole.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(content[: len(content) // 2])
    damaged = bytearray(content)
    damaged[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    (tmp_path / "damaged.mat").write_bytes(damaged)
    (tmp_path / "junk.mat").write_bytes(b"junk")
    (tmp_path / "hdf5.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600))
    savemat(tmp_path / "other.mat", {"images": pictures})
    savemat(tmp_path / "float.mat", {"X": pictures / 255})
    savemat(tmp_path / "labels.mat", {"X": pictures, "y": np.arange(3)})
    for name, message in {
        "cut.mat": "Cannot read the arrays",
        "damaged.mat": "Cannot read the arrays",
        "junk.mat": "Cannot read the arrays",
        "hdf5.mat": "version 7.3 is not read",
        "other.mat": r"'X' must be uint8 \[H, W, 3, N\], got nothing",
        "float.mat": r"'X' must be uint8 \[H, W, 3, N\], got double \[8, 8, 3, 40\]",
        "labels.mat": "3 labels for 40 images",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            ArrayFile(tmp_path / name)


def test_a_webdataset_has_its_labels_in_cls_files(tmp_path: Path) -> None:
    pictures, labels = colour_images(9)
    members = {}
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        members[f"shard/{index:04d}.png"] = png(picture)
        members[f"shard/{index:04d}.cls"] = str(label).encode()
        members[f"shard/{index:04d}.json"] = b"{}"
    source = ImageTar(write_tar(tmp_path / "set.tar", members))
    assert source.stated_labels == [str(label) for label in labels]
    batches = list(source.batches(COLOUR_PREPROCESSING, 4))
    expected = as_images(pictures, COLOUR_PREPROCESSING)
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
    assert batches[0].names[1] == "shard/0001.png"
    assert batches[0].ids[1] == digest(members["shard/0001.png"]).hex()
    (later,) = source.batches(COLOUR_PREPROCESSING, 9, start=5)
    assert torch.equal(later.images, expected[5:])


def test_an_archive_of_folders_has_its_labels_in_their_names(tmp_path: Path) -> None:
    pictures, labels = colour_images(6)
    members = {f"val/{COLOURS[c]}/{i}.png": png(pictures[i]) for i, c in enumerate(labels)}
    members["val/blue/broken.png"] = b"broken"
    members["val/._hidden.png"] = b""
    source = ImageTar(write_tar(tmp_path / "set.tar", members))
    assert source.label_names() == list(COLOURS)
    (batch,) = source.batches(COLOUR_PREPROCESSING, 9)
    assert [failure.name for failure in batch.failures] == ["val/blue/broken.png"]


def test_archives_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    picture = png(colour_images(1)[0][0])
    with pytest.raises(NotEnoughImages, match="no image file in the archive"):
        ImageTar(write_tar(tmp_path / "none.tar", {"a.txt": b"x"}))
    with pytest.raises(InvalidInput, match="'b.png' in .* has no .cls file"):
        ImageTar(write_tar(tmp_path / "some.tar", {"a.png": picture, "a.cls": b"0", "b.png": b""}))
    (tmp_path / "junk.tar").write_bytes(b"junk" * 400)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "junk.tar")
    for name in ("junk.tar", "packed.tar", "gone.tar"):
        with pytest.raises(InvalidInput, match="cannot be read as an uncompressed tar"):
            ImageTar(tmp_path / name)


def test_an_archive_cut_off_after_it_was_opened_gives_failures_not_nonsense(
    tmp_path: Path,
) -> None:
    pictures, _ = colour_images(4)
    path = write_tar(tmp_path / "set.tar", {f"{i}.png": png(p) for i, p in enumerate(pictures)})
    source = ImageTar(path)
    path.write_bytes(path.read_bytes()[:2200])
    (batch,) = source.batches(COLOUR_PREPROCESSING, 4)
    assert [failure.name for failure in batch.failures] == ["2.png", "3.png"]
    assert "the archive ends" in batch.failures[0].reason


def test_a_path_is_opened_as_what_lies_there(tmp_path: Path) -> None:
    write_pictures(tmp_path / "folder", 3, seed=1)
    (tmp_path / "t.csv").write_text("path\nfolder/blue/0000.png\n")
    np.save(tmp_path / "a.npy", colour_images(2)[0])
    write_tar(tmp_path / "s.tar", {"a.png": png(colour_images(1)[0][0])})
    kinds = {
        "folder": ImageFolder,
        "t.csv": ImageTable,
        "a.npy": ArrayFile,
        "s.tar": ImageTar,
        "folder/blue/0000.png": ImageFiles,
    }
    for name, kind in kinds.items():
        assert type(open_images(tmp_path / name)) is kind
    for name in ("discs/IM0001", "classes/polyp/a.dcm"):
        target = tmp_path / name
        target.parent.mkdir(parents=True)
        target.write_bytes(b"\0" * 128 + b"DICM")
    assert type(open_images(tmp_path / "discs")) is DicomFolder
    labelled = open_images(tmp_path / "classes")
    assert isinstance(labelled, DicomFolder)
    assert labelled.stated_labels == ["polyp"]
    (tmp_path / "folder" / "scan.dcm").write_bytes(b"")
    with pytest.raises(InvalidInput, match="both DICOM files and other images"):
        open_images(tmp_path / "folder")
    with pytest.raises(InvalidInput, match="no file or folder 'gone'"):
        open_images("gone")
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(InvalidInput, match=r"no source of images.*\.csv.*\.tar"):
        open_images(tmp_path / "notes.docx")


def test_a_damaged_or_joined_archive_is_refused_rather_than_read_in_part(tmp_path: Path) -> None:
    pictures, _ = colour_images(6)
    path = write_tar(tmp_path / "set.tar", {f"{i}.png": png(p) for i, p in enumerate(pictures)})
    whole = path.read_bytes()
    assert len(ImageTar(path)) == 6
    block = 2 * 1024
    flipped = whole[: block + 4] + b"\xff" + whole[block + 5 :]
    for content in (flipped, whole[:block], whole + whole):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match="damaged or cut off"):
            ImageTar(path)


def test_links_in_an_archive_are_recorded_not_dropped(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3, seed=1, by_class=False)
    (tmp_path / "a" / "soft.png").symlink_to("0000.png")
    (tmp_path / "a" / "zhard.png").hardlink_to(tmp_path / "a" / "0001.png")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "a", "a")
    (batch,) = ImageTar(tmp_path / "s.tar").batches(COLOUR_PREPROCESSING, 9)
    assert len(batch.images) == 3
    assert len(batch.failures) == 2
    assert all("is a link in the archive" in failure.reason for failure in batch.failures)


def test_an_array_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (150000000000,), }"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", member)
    np.savez(tmp_path / "label.npz", images=colour_images(2)[0], labels=np.array([-1, 0]))
    np.save(tmp_path / "renamed.npy", np.zeros(3))
    (tmp_path / "renamed.npy").rename(tmp_path / "renamed.npz")
    for name in ("bomb.npz", "label.npz", "renamed.npz"):
        with pytest.raises(InvalidInput, match=name):
            ArrayFile(tmp_path / name)
