"""Thumbnails: the right picture for every id, as large as they say, only where asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neroli import Classifier, Guard, Preprocessing, extract
from neroli.data.folders import ImageFiles
from neroli.detectors import NERO
from neroli.errors import InvalidInput, NeroliWarning
from neroli.explain.thumbnails import SIDE, thumbnails
from neroli.files import digest
from networks import colour_images, colour_loader, colour_tensors

ANY_SIZE = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def hashes(paths: list[Path]) -> torch.Tensor:
    return torch.tensor([list(digest(path.read_bytes())) for path in paths], dtype=torch.uint8)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve pictures of one colour each."""
    paths = [tmp_path / f"{i:02}.png" for i in range(12)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(path)
    return paths


def test_every_id_has_the_picture_with_that_content(files: list[Path]) -> None:
    wanted = [7, 2, 11]
    found, there = thumbnails(ImageFiles(files), ANY_SIZE, None, hashes([files[i] for i in wanted]))
    assert there.all()
    assert found.shape == (3, SIDE, SIDE, 3) and found.dtype == torch.uint8
    for number, picture in zip(wanted, found, strict=True):
        assert (picture == torch.tensor([20 * number, 0, 0])).all()  # enlarged to the full size


def test_an_image_that_is_not_there_is_white(files: list[Path]) -> None:
    wanted = hashes([files[5], files[1]])
    found, there = thumbnails(ImageFiles(files[:3]), ANY_SIZE, None, wanted)
    assert there.tolist() == [False, True]
    assert (found[0] == 255).all() and (found[1] == torch.tensor([20, 0, 0])).all()


def test_two_equal_images_do_no_harm(files: list[Path]) -> None:
    found, _ = thumbnails(ImageFiles([files[4]] * 3), ANY_SIZE, None, hashes([files[4]]))
    assert (found[0] == torch.tensor([80, 0, 0])).all()


def test_a_long_picture_stands_in_the_middle_of_white(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (256, 128), "black").save(path)
    (found,), _ = thumbnails(ImageFiles([path]), ANY_SIZE, None, hashes([path]))
    assert (found[16:48] == 0).all() and (found[:16] == 255).all() and (found[48:] == 255).all()


def test_a_guard_shows_its_training_images(classifier: Classifier) -> None:
    images, labels = colour_tensors(90, 1)
    guard = Guard(classifier, NERO()).fit([(images, labels)], keep_examples=30)
    guard.calibrate(colour_loader(60, 2, labels=False))
    kept = guard.explain(images[0]).examples
    assert len(kept.thumbnails) == 30
    nearest, distance = kept.nearest[0]
    assert distance <= kept.nearest[1][1]
    pictures, _ = colour_images(90, 1)
    shown = kept.thumbnails[nearest][::8, ::8].astype(int)
    assert np.abs(pictures.astype(int) - shown).reshape(90, -1).max(axis=1).min() <= 1


def test_of_stored_activations_there_are_ids_alone(classifier: Classifier, tmp_path: Path) -> None:
    store = extract(classifier, colour_loader(90, 1), tmp_path / "store")
    guard = Guard(classifier, NERO()).fit(store, keep_examples=30)
    guard.calibrate(colour_loader(60, 2, labels=False))
    examples = guard.explain(colour_tensors(1, 5)[0][0]).examples
    assert examples.thumbnails == {} and len(examples.nearest) == 9
    known = {bytes(row).hex() for row in store.digests().numpy()}
    assert {name for name, _ in examples.nearest} <= known


def test_none_are_kept_unless_asked_for(guard: Guard) -> None:
    examples = guard.explain(colour_tensors(1, 5)[0][0]).examples
    assert examples.thumbnails == {} and examples.nearest == []


def test_a_loader_that_augments_leaves_no_white_pictures(classifier: Classifier) -> None:
    class Augmenting:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            images, labels = colour_tensors(90, 1)
            yield images + 0.01 * torch.randn(images.shape), labels

    with pytest.warns(NeroliWarning, match="30 of 30 examples were not found.*augment"):
        guard = Guard(classifier, NERO()).fit(Augmenting(), keep_examples=30)
    guard.calibrate(colour_loader(60, 2, labels=False))
    examples = guard.explain(colour_tensors(1, 5)[0][0]).examples
    assert examples.nearest == [] and examples.thumbnails == {}


def test_an_image_is_at_no_distance_from_itself(classifier: Classifier) -> None:
    images, labels = colour_tensors(90, 1)
    guard = Guard(classifier, NERO()).fit([(images, labels)], keep_examples=90)
    guard.calibrate(colour_loader(60, 2, labels=False))
    assert guard.explain(images[3]).examples.nearest[0][1] < 1e-6


@pytest.mark.parametrize("number", [-1, 2.5, "3"])
def test_a_number_of_examples_is_asked_for(classifier: Classifier, number: int) -> None:
    with pytest.raises(InvalidInput, match="keep_examples must be 0 or a number, got"):
        Guard(classifier, NERO()).fit(colour_loader(90, 1), keep_examples=number)
