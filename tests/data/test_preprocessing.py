"""Preprocessing against arithmetic done by hand, and torchvision's transforms."""

import numpy as np
import pytest
import torch
from PIL import Image

from neroli import Preprocessing
from neroli.errors import InvalidInput, UnreadableImage
from neroli.models import import_torchvision

DRAW = np.random.default_rng(0)
PICTURE = Image.fromarray(DRAW.integers(0, 256, (37, 61, 3), dtype=np.uint8))


def test_normalises_each_channel() -> None:
    tensor = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(PICTURE)
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)]):
        expected = (np.asarray(PICTURE)[:, :, channel] / 255 - mean) / std
        np.testing.assert_allclose(tensor[channel], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("resize", "crop"), [(24, 16), ((20, 30), (20, 20)), (50, None)])
def test_equals_torchvision(resize: int | tuple[int, int], crop: int | None) -> None:
    import_torchvision()
    transforms = pytest.importorskip("torchvision.transforms")
    steps = [transforms.Resize(resize)]
    steps += [transforms.CenterCrop(crop)] if crop else []
    steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
    actual = Preprocessing((0.5,) * 3, (0.25,) * 3, resize, crop)(PICTURE)
    torch.testing.assert_close(actual, transforms.Compose(steps)(PICTURE))


def test_colour_becomes_grey_for_a_grey_network_and_back() -> None:
    grey = Preprocessing(mean=(0.0,), std=(1.0,))(PICTURE)
    assert grey.shape == (1, 37, 61)
    np.testing.assert_allclose(grey[0], np.asarray(PICTURE.convert("L")) / 255, atol=1e-6)
    colour = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)(PICTURE.convert("L"))
    assert torch.equal(colour[0], colour[2])


def test_a_picture_smaller_than_the_crop_or_a_thread_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match="61x37 pixels, smaller than the crop of 40x40"):
        Preprocessing((0.5,) * 3, (0.5,) * 3, crop=40)(PICTURE)
    thread = Image.new("RGB", (1, 5000))
    with pytest.raises(UnreadableImage, match="1x5000 pixels, too narrow"):
        Preprocessing((0.5,) * 3, (0.5,) * 3, resize=224)(thread)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": (0.5, 0.5)}, "one value \\(grey\\) or three"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"resize": 0}, "resize"),
        ({"crop": (5, -1)}, "crop"),
        ({"interpolation": "magic"}, "magic"),
        ({"resize": "big"}, "resize='big'"),
        ({"resize": (1, 2, 3)}, "resize"),
        ({"resize": 10**9}, "16384"),
        ({"mean": 0.5}, "mean=0.5"),
        ({"std": (1.0, float("nan"), 1.0)}, "finite"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    valid: dict[str, object] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(InvalidInput, match=message):
        Preprocessing(**(valid | settings))  # type: ignore[arg-type]
