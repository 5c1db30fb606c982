"""Handwritten digits that come with scikit-learn, and images around them: a benchmark at hand.

Nothing is read from a folder, so that a demo or a test can run anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from neroli.data.arrays import ArrayReader
from neroli.data.named.sets import Benchmark, NamedData, OODSet
from neroli.data.pictures import Pictures
from neroli.files import digest

KNOWN = 7
"""The classes are the digits below this one."""
PHOTOGRAPHS = 300
PATCH = 40
"""Side of a patch of a photograph, in pixels."""

Array = np.ndarray[Any, Any]


def load(seed: int = 0) -> NamedData:
    """Digits 0-6 split into training (half), calibration and test; the OOD sets around them.

    Args:
        seed: another seed, another split and other corruptions.
    """
    from sklearn.datasets import load_digits, load_sample_images

    draw = np.random.default_rng(seed)
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    known = draw.permutation(np.flatnonzero(digits.target < KNOWN))
    half, quarter = len(known) // 2, len(known) // 4
    rows = {
        "train": known[:half],
        "calibration": known[half : half + quarter],
        "test": known[half + quarter :],
    }
    unknown = images[digits.target >= KNOWN]
    corrupted = _corrupted(images[rows["test"]], draw)
    patches = np.concatenate([_patches(image) for image in load_sample_images().images])
    photographs = draw.permutation(patches)[:PHOTOGRAPHS]
    return NamedData(
        "digits",
        [str(digit) for digit in range(KNOWN)],
        {part: _pictures(images[chosen], digits.target[chosen]) for part, chosen in rows.items()},
        [
            OODSet("digits 7-9", _pictures(unknown), "near"),
            OODSet("corrupted", _pictures(corrupted), "far"),
            OODSet("photographs", _pictures(photographs), "far"),
        ],
    )


def _pictures(images: Array, labels: Array | None = None) -> Pictures:
    """Images ``[N, H, W]`` uint8, named by their position."""
    names = [str(position) for position in range(len(images))]
    return Pictures(
        ArrayReader(images, digest(images.tobytes()).hex()),
        names,
        None if labels is None else labels.tolist(),
    )


def _patches(photograph: Array) -> Array:
    """Square grey patches ``[N, PATCH, PATCH]`` that tile a photograph ``[H, W, 3]``."""
    grey = np.asarray(Image.fromarray(photograph).convert("L"))
    rows, columns = grey.shape[0] // PATCH, grey.shape[1] // PATCH
    tiles = grey[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
    return tiles.swapaxes(1, 2).reshape(-1, PATCH, PATCH)


def _corrupted(images: Array, draw: np.random.Generator) -> Array:
    """Each image negated, drowned in noise, or with its pixels shuffled, in turn."""
    corrupted = images.copy()
    corrupted[::3] = 255 - images[::3]
    noise = draw.normal(0, 90, images[1::3].shape)
    corrupted[1::3] = np.clip(images[1::3] + noise, 0, 255)
    corrupted[2::3] = draw.permuted(images[2::3].reshape(-1, 64), axis=1).reshape(-1, 8, 8)
    return corrupted


BENCHMARKS = (
    Benchmark(
        "digits",
        "Handwritten 8x8 digits that come with scikit-learn, so that no folder is needed. ID: the "
        "digits 0 to 6, 632 images in train, 316 in calibration and 316 in test, drawn at random. "
        "OOD: the digits 7-9 (near, 533 images); corrupted digits and patches of photographs (far, "
        "316 and 300).",
        load,
        embedded=True,
    ),
)
