"""Pictures of heat maps, pixel by pixel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neroli import Preprocessing
from neroli.errors import InvalidInput
from neroli.explain import Heatmap, pictures_of

BLUE, NEUTRAL, RED = [5, 48, 97], [247, 247, 247], [103, 0, 31]


def heatmap_of(relevance: Tensor) -> Heatmap:
    started = relevance.sum((1, 2))
    return Heatmap(relevance, relevance[:, None], started, started.abs(), "lrp", "composite", None)


def test_colours_run_from_blue_over_white_to_red() -> None:
    values = torch.tensor([[[-2.0, -1.2, 0.0, 0.4, 2.0]]])
    colours = heatmap_of(values).colours(quantile=1.0)
    assert colours.dtype == np.uint8
    # -1.2 of 2 is the third of the eleven colours, 0.4 the seventh
    assert colours[0, 0].tolist() == [BLUE, [67, 147, 195], NEUTRAL, [253, 219, 199], RED]


def test_each_image_has_its_own_symmetric_scale() -> None:
    values = torch.tensor([[[1.0, -0.5]], [[100.0, -50.0]], [[-1.0, 0.5]]])
    colours = heatmap_of(values).colours(quantile=1.0)
    assert (colours[0] == colours[1]).all()
    assert colours[:, 0, 0].tolist() == [RED, RED, BLUE]


def test_a_few_extreme_pixels_do_not_leave_the_rest_white() -> None:
    values = torch.ones(1, 20, 20)
    values[0, 0, 0] = 1e6
    assert heatmap_of(values).colours()[0, 5, 5].tolist() == RED
    sparse = torch.zeros(1, 20, 20)
    sparse[0, 0, 0] = -3
    assert heatmap_of(sparse).colours()[0, 0, :2].tolist() == [BLUE, NEUTRAL]


def test_a_map_of_zeros_is_white_and_leaves_the_picture() -> None:
    heatmap = heatmap_of(torch.zeros(2, 3, 3))
    assert (heatmap.colours() == 247).all()
    grey = np.full((2, 6, 6, 3), 90, np.uint8)
    assert (heatmap.overlay(grey) == 90).all()


def test_smoothing_spreads_a_pixel() -> None:
    values = torch.zeros(1, 9, 9)
    values[0, 4, 4] = 1
    smooth = heatmap_of(values).colours(smoothing=1.0)[0]
    assert smooth[4, 4].tolist() == RED
    assert smooth[4, 5].tolist() != NEUTRAL
    assert (smooth[4, 5] == smooth[3, 4]).all()


def test_an_overlay_mixes_a_grey_picture_with_the_colours() -> None:
    picture = np.full((1, 1, 3, 3), (200, 100, 50), np.uint8)  # luma 124.2
    values = torch.tensor([[[-1.0, 0.0, 1.0]]])
    full = heatmap_of(values).overlay(picture, strength=1.0, quantile=1.0)
    assert full[0, 0].tolist() == [BLUE, [124, 124, 124], RED]
    half = heatmap_of(values).overlay(torch.from_numpy(picture), strength=0.5, quantile=1.0)
    assert half[0, 0, 2].tolist() == [114, 62, 78]  # of 113.6, 62.1 and 77.6
    assert (heatmap_of(values).overlay(picture, strength=0.0) == 124).all()


def test_the_map_is_brought_to_the_size_of_the_picture() -> None:
    heatmap = heatmap_of(torch.tensor([[[1.0, -1.0]]]))
    black = np.zeros((1, 2, 8, 3), np.uint8)
    nearest = heatmap.overlay(black, strength=1.0, quantile=1.0, interpolation="nearest")
    assert nearest[0, 1].tolist() == [RED] * 4 + [BLUE] * 4
    smooth = heatmap.overlay(black, strength=1.0, quantile=1.0)[0, 0]
    assert smooth[0].tolist() == RED and smooth[-1].tolist() == BLUE
    assert smooth[3].tolist() != RED and smooth[4].tolist() != BLUE
    assert heatmap.overlay(np.zeros((1, 5, 7, 3), np.uint8)).shape == (1, 5, 7, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pictures": np.zeros((1, 4, 4), np.uint8)}, r"\[N, h, w, 3\] uint8, got uint8 of shape"),
        ({"pictures": np.zeros((1, 4, 4, 3))}, "uint8, got float64"),
        ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, "2 pictures for 1 heat maps"),
        ({"strength": 1.5}, "strength must be 0 to 1, got 1.5"),
        ({"quantile": 0.0}, "quantile must be above 0"),
        ({"smoothing": -1.0}, "smoothing must be zero or"),
        ({"interpolation": "cubic"}, "got 'cubic'"),
    ],
)
def test_overlays_of_what_cannot_be_used(arguments: dict[str, object], message: str) -> None:
    given = {"pictures": np.zeros((1, 4, 4, 3), np.uint8)} | arguments
    with pytest.raises(InvalidInput, match=message):
        heatmap_of(torch.ones(1, 2, 2)).overlay(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_taken_back(channels: int) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, channels, 4, 5), generator=draw, dtype=torch.uint8)
    preprocessing = Preprocessing((0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels])
    pictures = pictures_of(preprocessing.normalised(pixels), preprocessing)
    expected = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    assert (pictures == expected.numpy()).all()


def test_without_known_preprocessing_values_are_stretched() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3).repeat(2, 3, 1, 1)
    images[1] *= 10
    pictures = pictures_of(images, None)
    assert pictures[0, 0, :, 0].tolist() == pictures[1, 0, :, 2].tolist() == [0, 128, 255]
    assert (pictures_of(torch.full((1, 3, 2, 2), 5.0), None) == 128).all()


def test_other_numbers_of_channels_are_shown_in_grey() -> None:
    images = torch.zeros(1, 4, 1, 2)
    images[0, 2, 0, 1] = 1
    for preprocessing in (None, Preprocessing((0.5,), (0.5,))):
        assert pictures_of(images, preprocessing)[0, 0].tolist() == [[0] * 3, [255] * 3]


def test_pictures_of_what_cannot_be_shown() -> None:
    with pytest.raises(InvalidInput, match=r"got \[3, 2, 2\]"):
        pictures_of(torch.zeros(3, 2, 2), None)
    with pytest.raises(InvalidInput, match="finite"):
        pictures_of(torch.full((1, 3, 2, 2), torch.nan), None)
