"""Augmentation: what is drawn, how often, and that it hangs on nothing but its key."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from neroli import Preprocessing
from neroli.data.folders import ImageFolder
from neroli.errors import ModelError
from neroli.models import import_torchvision
from neroli.training.augmentation import Augmentation, AugmentedReader

import_torchvision()
pytest.importorskip("torchvision")

OFF = {"flip": 0.0, "jitter": 0.0, "invert": 0.0, "equalise": 0.0}


def augmentation(**on: float) -> Augmentation:
    return Augmentation(**(OFF | on))


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    pixels = (draw.beta(2, 5, (9, 12, 3)) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("name", "by_pillow"), [("invert", ImageOps.invert), ("equalise", ImageOps.equalize)]
)
def test_inversion_and_equalisation_are_pillows(name: str, by_pillow: object, mode: str) -> None:
    changed = augmentation(**{name: 1.0})(picture(mode), np.random.default_rng(0))
    assert changed.mode == mode
    assert changed == by_pillow(picture(mode))  # type: ignore[operator]


def test_flips_are_both_ways_and_independent() -> None:
    original = picture()
    ways = {
        "none": original,
        "horizontal": ImageOps.mirror(original),
        "vertical": ImageOps.flip(original),
        "both": original.rotate(180),
    }
    counts = dict.fromkeys(ways, 0)
    draw = np.random.default_rng(0)
    for _ in range(2000):
        changed = augmentation(flip=0.3)(original, draw)
        counts[next(name for name, way in ways.items() if way == changed)] += 1
    expected = {"none": 0.49, "horizontal": 0.21, "vertical": 0.21, "both": 0.09}
    # four standard deviations of a share of 2,000
    assert {n: c / 2000 for n, c in counts.items()} == pytest.approx(expected, abs=0.045)


def test_jitter_changes_contrast_by_its_relative_strength_at_most() -> None:
    """On grey pictures only brightness and contrast do something; at their extremes as Pillow."""
    grey = Image.fromarray(np.full((8, 8), 100, np.uint8))  # contrast leaves it alone
    levels = [
        np.asarray(augmentation(jitter=0.25)(grey, np.random.default_rng(seed))).item(0)
        for seed in range(300)
    ]
    lowest, highest = (
        ImageEnhance.Brightness(grey).enhance(f).getpixel((0, 0)) for f in (3 / 4, 5 / 4)
    )
    assert lowest <= min(levels) < lowest + 3
    assert highest - 3 < max(levels) <= highest
    assert np.mean(levels) == pytest.approx(100, abs=4)


def test_jitter_shifts_hues_of_colour_pictures() -> None:
    red = Image.new("RGB", (4, 4), (200, 20, 20))
    hues = [
        augmentation(jitter=0.25)(red, np.random.default_rng(s)).convert("HSV").getpixel((0, 0))[0]  # type: ignore[index]
        for s in range(200)
    ]
    shifts = [(hue + 128) % 256 - 128 for hue in hues]  # of a circle of 256
    assert -66 <= min(shifts) < -55
    assert 55 < max(shifts) <= 66


def test_what_is_off_leaves_the_draws_of_others_alone() -> None:
    for seed in range(20):
        alone = augmentation(invert=0.5)(picture(), np.random.default_rng(seed))
        both = augmentation(invert=0.5, equalise=1.0)(picture(), np.random.default_rng(seed))
        assert ImageOps.equalize(alone) == both


def test_nothing_is_done_when_all_is_off() -> None:
    assert not augmentation()
    assert augmentation(flip=0.1)


def test_torchvision_is_needed_only_when_something_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    augmentation()
    with pytest.raises(ModelError, match=r"Augmentation needs torchvision: .*\[torchvision\]"):
        augmentation(flip=0.5)


def test_a_picture_is_changed_by_seed_epoch_and_place_alone(pictures: object) -> None:
    source = ImageFolder(f"{pictures}/train").subset(list(range(20, 40)))
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=(6, 7))
    everything = augmentation(flip=0.5, jitter=0.25, invert=0.3, equalise=0.3)

    def seen(order: list[int], seed: int = 0, epoch: int = 1) -> dict[int, bytes]:
        reader = AugmentedReader(source, order, preprocessing, everything, seed, epoch)
        return {place: reader.read(i)[1].tobytes() for i, place in enumerate(order)}

    forward = seen(list(range(20)))
    assert seen(list(range(20))[::-1]) == forward
    assert len(forward[0]) == 6 * 7 * 3
    for other in (seen(list(range(20)), seed=1), seen(list(range(20)), epoch=2)):
        assert sum(other[place] != forward[place] for place in forward) > 15
    reader = AugmentedReader(source, [3], preprocessing, everything, 0, 1)
    assert reader.read(0)[0] == source.reader.read(23)[0]  # known by its file
