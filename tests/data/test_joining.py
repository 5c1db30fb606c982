"""Sets of images from several places as one set."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli.data.arrays import ArrayFile
from neroli.data.folders import ImageFolder
from neroli.data.joining import joined
from neroli.data.sources import as_images
from neroli.errors import InvalidInput
from networks import colour_images


def test_joined_sets_keep_their_images_names_and_order(tmp_path: Path) -> None:
    pictures, _ = colour_images(9)
    np.save(tmp_path / "a.npy", pictures[:5])
    np.save(tmp_path / "b.npy", pictures[5:])
    first, second = ArrayFile(tmp_path / "a.npy"), ArrayFile(tmp_path / "b.npy")
    both = joined([second.subset([3, 0]), first, second.subset([1])])
    assert both.names == ["3", "0", "0", "1", "2", "3", "4", "1"]
    assert both.labels is None and both.stated_labels is None
    (batch,) = both.batches(COLOUR_PREPROCESSING, 8)
    expected = pictures[[8, 5, 0, 1, 2, 3, 4, 6]]
    assert torch.equal(batch.images, as_images(expected, COLOUR_PREPROCESSING))


def test_a_changed_image_changes_the_fingerprint_of_the_joined_set(tmp_path: Path) -> None:
    pictures, _ = colour_images(4)
    np.save(tmp_path / "a.npy", pictures)
    before = joined([ArrayFile(tmp_path / "a.npy"), ArrayFile(tmp_path / "a.npy")]).fingerprint
    np.save(tmp_path / "a.npy", np.concatenate([pictures, pictures]))
    after = joined([ArrayFile(tmp_path / "a.npy").subset(range(4))] * 2).fingerprint
    assert before != after


def test_files_and_arrays_are_not_joined_since_their_hashes_differ(tmp_path: Path) -> None:
    pictures, _ = colour_images(4)
    np.save(tmp_path / "a.npy", pictures)
    folder = ImageFolder(write_pictures(tmp_path / "folder", 4, seed=0))
    with pytest.raises(InvalidInput, match="kept as file and as picture cannot be one set"):
        joined([ArrayFile(tmp_path / "a.npy"), folder])
