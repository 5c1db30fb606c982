"""The embedded digits: the images and the split that the demo has always had."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from neroli.data import named
from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing

AS_THEY_ARE = Preprocessing(mean=(0.0,), std=(1.0,))


def pixels(images: Pictures) -> np.ndarray:
    """Grey values ``[N, H, W]`` uint8."""
    (batch,) = images.batches(AS_THEY_ARE, len(images))
    return (batch.images[:, 0] * 255).round().to(dtype=batch.digests.dtype).numpy()


def test_the_digits_0_to_6_are_split_in_two_quarters_and_a_half() -> None:
    data = named.load("digits")
    digits = load_digits()
    shuffled = list(np.random.default_rng(0).permutation(np.flatnonzero(digits.target < 7)))
    parts = {"train": shuffled[:632], "calibration": shuffled[632:948], "test": shuffled[948:]}
    assert data.class_names == ["0", "1", "2", "3", "4", "5", "6"]
    assert data.id_sets.keys() == parts.keys()
    for name, rows in parts.items():
        assert data.id_sets[name].labels == [int(digits.target[row]) for row in rows]
        expected = [(digits.images[row] * 255 / 16).astype(np.uint8) for row in rows]
        assert np.array_equal(pixels(data.id_sets[name]), np.stack(expected))


def test_unknown_digits_corrupted_ones_and_photographs_are_outside() -> None:
    data = named.load("digits")
    unknown, corrupted, photographs = data.ood_sets
    assert [(ood.name, ood.nearness) for ood in data.ood_sets] == [
        ("digits 7-9", "near"),
        ("corrupted", "far"),
        ("photographs", "far"),
    ]
    digits = load_digits()
    values = (digits.images * 255 / 16).astype(np.uint8)
    assert np.array_equal(pixels(unknown.images), values[digits.target > 6])

    draw = np.random.default_rng(0)
    test = values[draw.permutation(np.flatnonzero(digits.target < 7))[948:]]
    noise = iter(draw.normal(0, 90, (105, 8, 8)))
    drowned = [np.clip(image + next(noise), 0, 255).astype(np.uint8) for image in test[1::3]]
    altered = pixels(corrupted.images)
    assert np.array_equal(altered[::3], 255 - test[::3])
    assert np.array_equal(altered[1::3], np.stack(drowned))
    for image, shuffled in zip(test[2::3], altered[2::3], strict=True):
        assert sorted(shuffled.ravel()) == sorted(image.ravel())

    tiles = set()
    for photograph in load_sample_images().images:
        grey = np.asarray(Image.fromarray(photograph).convert("L"))
        tiles |= {
            grey[top : top + 40, left : left + 40].tobytes()
            for top in range(0, grey.shape[0] - 39, 40)
            for left in range(0, grey.shape[1] - 39, 40)
        }
    chosen = {patch.tobytes() for patch in pixels(photographs.images)}
    assert len(photographs.images) == 300 and len(chosen) > 290
    assert chosen <= tiles


def test_the_digits_are_the_same_every_time() -> None:
    first, second = named.load("digits"), named.load("digits", "/nowhere")
    assert first.id_sets["test"].fingerprint == second.id_sets["test"].fingerprint
    assert first.id_sets["test"].fingerprint != first.id_sets["calibration"].fingerprint
    assert first.ood_sets[1].images.fingerprint == second.ood_sets[1].images.fingerprint
