"""Image sources: what they yield, and what becomes of images that cannot be read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli.data.folders import ImageFiles, ImageFolder
from neroli.data.sources import ImageLoader, as_images
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import digest
from networks import COLOURS, colour_images, colour_tensors

CLASSES = {name: index for index, name in enumerate(COLOURS)}


def test_a_folder_yields_its_images_in_sorted_order_with_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path, 30, seed=1)
    (tmp_path / "notes.txt").write_text("not an image")
    source = ImageFolder(tmp_path).labelled(CLASSES)
    batches = list(source.batches(COLOUR_PREPROCESSING, 8))
    assert [len(batch.images) for batch in batches] == [8, 8, 8, 6]
    assert [batch.end for batch in batches] == [8, 16, 24, 30]
    names = [name for batch in batches for name in batch.names]
    assert names == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    pictures, labels = colour_images(30, seed=1)
    for row, name in enumerate(names):
        number = int(Path(name).stem)
        batch = batches[row // 8]
        expected = COLOUR_PREPROCESSING(Image.fromarray(pictures[number]))
        assert torch.equal(batch.images[row % 8], expected)
        assert batch.labels is not None
        assert batch.labels[row % 8] == labels[number]
        content = digest((tmp_path / name).read_bytes())
        assert bytes(batch.digests[row % 8].numpy()) == content
        assert batch.ids[row % 8] == content.hex()


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_start_do_not_change_what_comes(tmp_path: Path, workers: int) -> None:
    write_pictures(tmp_path, 25, seed=1)
    (whole,) = ImageFolder(tmp_path).batches(COLOUR_PREPROCESSING, 25)
    source = ImageFolder(tmp_path, workers=workers)
    rest = list(source.batches(COLOUR_PREPROCESSING, 4, start=10))
    assert torch.equal(torch.cat([batch.images for batch in rest]), whole.images[10:])


def test_unreadable_images_are_recorded_and_skipped(tmp_path: Path) -> None:
    write_pictures(tmp_path, 12, seed=1, by_class=False)
    (tmp_path / "0003.png").write_bytes(b"")
    (tmp_path / "0007.png").write_text("no image")
    Image.new("RGB", (9, 8)).save(tmp_path / "0010.png")
    batches = list(ImageFolder(tmp_path).batches(COLOUR_PREPROCESSING, 5))
    assert sum(len(batch.images) for batch in batches) == 9
    failures = {f.name: f.reason for batch in batches for f in batch.failures}
    assert failures.keys() == {"0003.png", "0007.png", "0010.png"}
    assert "0 bytes" in failures["0003.png"]
    assert "9x8 pixels after preprocessing, other images are 8x8" in failures["0010.png"]


def test_the_fingerprint_knows_a_changed_file_label_or_order(tmp_path: Path) -> None:
    write_pictures(tmp_path, 6, seed=1, by_class=False)
    paths = sorted(tmp_path.glob("*.png"))
    first = ImageFiles(paths, [0] * 6).fingerprint
    assert first == ImageFiles(paths, [0] * 6).fingerprint
    assert first != ImageFiles(paths, [0] * 5 + [1]).fingerprint
    assert first != ImageFiles(paths[::-1], [0] * 6).fingerprint
    paths[2].write_bytes(paths[3].read_bytes() + b" ")
    assert first != ImageFiles(paths, [0] * 6).fingerprint


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        ImageFolder(tmp_path / "gone")
    with pytest.raises(NotEnoughImages, match="no image file in"):
        ImageFolder(tmp_path)
    write_pictures(tmp_path, 6, seed=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotEnoughImages, match="class folder 'empty'"):
        ImageFolder(tmp_path).labelled(CLASSES | {"empty": 3})
    Image.new("RGB", (8, 8)).save(tmp_path / "stray.png")
    with pytest.raises(InvalidInput, match="'stray.png'.*in no class folder"):
        ImageFolder(tmp_path).labelled(CLASSES)


def test_linked_folders_are_read_once_and_hidden_ones_not(tmp_path: Path) -> None:
    write_pictures(tmp_path / "real", 6, seed=1, by_class=False)
    root = tmp_path / "root"
    write_pictures(root, 3, seed=2, by_class=False)
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "loop").symlink_to(root)
    write_pictures(root / ".ipynb_checkpoints", 3, seed=3, by_class=False)
    source = ImageFolder(root)
    assert [name for name in source.names if "/" not in name] == [
        "0000.png",
        "0001.png",
        "0002.png",
    ]
    assert sum(name.startswith("linked/") for name in source.names) == 6
    assert source.size == 9


def test_file_names_of_any_bytes_can_be_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1, seed=1, by_class=False)
    os.rename(tmp_path / "0000.png", os.fsencode(tmp_path) + b"/odd\xff.png")
    source = ImageFolder(tmp_path)
    assert source.fingerprint
    assert len(next(source.batches(COLOUR_PREPROCESSING, 1)).images) == 1


def test_loaders_may_yield_images_labels_names_and_groups() -> None:
    images, labels = colour_tensors(10)
    plain = list(ImageLoader([images[:4], images[4:]]).batches(None, 99))
    assert [batch.labels for batch in plain] == [None, None]
    dataset = TensorDataset(images, labels)
    pairs = list(ImageLoader(DataLoader(dataset, batch_size=4)).batches(None, 99))
    assert torch.equal(torch.cat([batch.labels for batch in pairs]), labels)  # type: ignore[misc]
    named = [(images, labels, torch.arange(10), ["ann"] * 4 + ["bob"] * 6)]
    (batch,) = ImageLoader(named).batches(None, 99)
    assert batch.groups is not None
    assert len(batch.groups.unique(dim=0)) == 2
    assert batch.names == tuple("0123456789")
    later = ImageLoader(DataLoader(dataset, batch_size=4)).batches(None, 99, start=4)
    assert next(later).end == 8
    (rest,) = ImageLoader([(images, labels)]).batches(None, 99, start=7)
    assert rest.names == ("7", "8", "9")
    assert torch.equal(rest.images, images[7:])


def test_equal_images_have_equal_digests_whatever_their_batch() -> None:
    images, _ = colour_tensors(6)
    one = next(ImageLoader([images]).batches(None, 9)).digests
    other = [batch.digests for batch in ImageLoader(list(images.split(1))).batches(None, 9)]
    assert torch.equal(torch.cat(other), one)
    assert len({bytes(row.numpy()) for row in one}) == 6


def test_loaders_that_run_dry_or_yield_too_much_are_refused() -> None:
    with pytest.raises(InvalidInput, match="runs dry"):
        ImageLoader(iter([torch.zeros(1, 3, 8, 8)]))
    pictures = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]
    assert len(next(ImageLoader([pictures]).batches(COLOUR_PREPROCESSING, 1)).images) == 2
    with pytest.raises(InvalidInput, match="5 values"):
        list(ImageLoader([(1, 2, 3, 4, 5)]).batches(None, 1))


def test_images_in_any_form_are_the_same_tensor(tmp_path: Path) -> None:
    pictures, _ = colour_images(3)
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(picture).save(paths[-1])
    expected = torch.stack([COLOUR_PREPROCESSING(Image.fromarray(p)) for p in pictures])
    forms = {
        "array": pictures,
        "arrays": list(pictures),
        "channels last": torch.from_numpy(pictures),
        "channels first": torch.from_numpy(pictures).permute(0, 3, 1, 2),
        "pictures": [Image.fromarray(p) for p in pictures],
        "paths": paths,
        "names": [str(path) for path in paths],
        "tensors": list(expected),
    }
    for name, form in forms.items():
        assert torch.equal(as_images(form, COLOUR_PREPROCESSING), expected), name
    assert torch.equal(as_images(paths[1], COLOUR_PREPROCESSING), expected[1:2])
    assert as_images(expected, None) is expected


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "empty"),
        (torch.full((2, 3, 8, 8), torch.nan), "Image 0 of the batch holds NaN"),
        (torch.zeros(0, 3, 8, 8), r"\[0, 3, 8, 8\]"),
        (np.zeros((2, 8, 8, 3)), "must be uint8, got float64"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "differ in size"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], "single images"),
        ({"x": 1}, "Cannot take a dict"),
        ("gone.png", "'gone.png' cannot be read: No such file"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images: object, message: str) -> None:
    with pytest.raises((InvalidInput, NotEnoughImages), match=message):
        as_images(images, COLOUR_PREPROCESSING)


def test_a_named_unreadable_image_is_an_error_when_asked_for_directly(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(UnreadableImage, match="bad.png' is not an image"):
        as_images([tmp_path / "bad.png"], COLOUR_PREPROCESSING)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_and_a_huge_file_are_unreadable_and_nothing_waits(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, seed=1, by_class=False)
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**31)
    (batch,) = ImageFolder(tmp_path).batches(COLOUR_PREPROCESSING, 9)
    assert len(batch.images) == 3
    reasons = {failure.name: failure.reason for failure in batch.failures}
    assert reasons["pipe.png"] == "is no plain file"
    assert "2,147,483,648 bytes" in reasons["sparse.png"]


def test_the_expected_size_does_not_depend_on_the_neighbours(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, seed=1, by_class=False)
    Image.new("RGB", (9, 8)).save(tmp_path / "0-odd.png")
    (batch,) = ImageFolder(tmp_path).batches(COLOUR_PREPROCESSING, 9, shape=(3, 8, 8))
    assert [failure.name for failure in batch.failures] == ["0-odd.png"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((4, [0] * 4, None, "P01"), "groups of a batch must be a list .* got P01"),
        ((4, [0] * 4, None, ["a", "b"]), "4 images has 2 groups"),
        ((4, [0] * 4, None, [1.0] * 4), "groups of a batch must be"),
        ((4, [0] * 4, None, [None] * 4), "groups of a batch must be"),
        ((4, [0] * 4, "abcd"), "names of a batch must be"),
        ((4, ["cat"] * 4), "Labels must be a tensor"),
        ((4, [0] * 3), "4 images has 3 labels"),
    ],
)
def test_what_a_loader_says_of_its_images_must_be_one_value_each(
    batch: tuple[Any, ...], message: str
) -> None:
    images, _ = colour_tensors(batch[0])
    with pytest.raises(InvalidInput, match=message):
        list(ImageLoader([(images, *batch[1:])]).batches(None, 9))


def test_labels_and_groups_of_pictures_must_be_known(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2, seed=1, by_class=False)
    paths = sorted(tmp_path.glob("*.png"))
    for labels in ([0, None], [0.5, 1.0], [True, False]):
        with pytest.raises(InvalidInput, match="labels must be int or str each"):
            ImageFiles(paths, labels)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="groups must be str each, got None"):
        ImageFiles(paths, groups=["a", None])  # type: ignore[list-item]
