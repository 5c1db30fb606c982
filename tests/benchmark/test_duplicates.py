"""Images found in two sets, or twice in one, by their content."""

import numpy as np
import torch
from torch import Tensor

from neroli.benchmark.duplicates import copies, duplicates
from neroli.benchmark.results import Duplicates
from neroli.overlap import no_digests


def hashes(*numbers: int) -> Tensor:
    """A hash a number; zeros at the end and within, as real ones have."""
    rows = np.zeros((len(numbers), 16), np.uint8)
    rows[:, 3] = numbers
    return torch.from_numpy(rows)


SETS = {
    "train": hashes(1, 2, 3, 0),
    "test": hashes(4, 5, 5),
    "a": hashes(3, 3, 9, 1, 0),
    "b": hashes(5, 7),
    "none": no_digests(),
}


def test_images_of_the_second_set_that_are_in_the_first_are_counted() -> None:
    pairs = [("train", "a"), ("train", "b"), ("test", "b"), ("b", "test"), ("a", "none")]
    assert duplicates(SETS, pairs) == [
        Duplicates(first="train", second="a", images=4),
        Duplicates(first="test", second="b", images=1),
        Duplicates(first="b", second="test", images=2),
    ]


def test_counts_are_those_of_comparing_every_image_with_every_other() -> None:
    draw = np.random.default_rng(0)
    sets = {
        name: torch.from_numpy(np.tile(draw.integers(0, 3, (60, 4), np.uint8), 4))
        for name in ("one", "two")
    }
    first, second = ({tuple(row) for row in each.tolist()} for each in sets.values())
    rows = [tuple(row) for row in sets["two"].tolist()]
    assert duplicates(sets, [("one", "two")])[0].images == sum(row in first for row in rows)
    assert copies(sets)["two"] == len(rows) - len(second)


def test_copies_within_a_set_are_counted_beyond_the_first() -> None:
    assert copies(SETS) == {"test": 1, "a": 1}
    assert copies({"thrice": hashes(6, 6, 6)}) == {"thrice": 2}
