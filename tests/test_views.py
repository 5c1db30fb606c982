"""Views of pictures, against NumPy and SciPy, and what the network computes for them."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from neroli import Classifier
from neroli.errors import InvalidInput
from neroli.execution import Execution
from neroli.taps import NOTHING, Requirements, Tap
from neroli.views import View, ViewProbe, measures_more
from networks import untrained_resnet20

DRAW = torch.Generator().manual_seed(3)
IMAGES = torch.randn(5, 3, 32, 32, generator=DRAW)
OBLONG = torch.rand(2, 3, 20, 30, generator=DRAW)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return untrained_resnet20()


@pytest.mark.parametrize(
    "text", ["mirror", "flip", "left:4", "right:1", "up:2", "down:31", "rotate:5", "rotate:-2.5"]
)
def test_a_view_is_written_as_it_is_read(text: str) -> None:
    assert str(View.parse(text)) == text
    assert View.parse(str(View.parse(text))) == View.parse(text)


def test_numbers_are_written_in_one_way() -> None:
    assert str(View.parse("rotate:5.0")) == "rotate:5" == str(View("rotate", 5))
    assert str(View.parse("left:04")) == "left:4"


@pytest.mark.parametrize(
    "text",
    [
        *("", "mirorr", "Mirror", "mirror:2", "left", "left:", "left:0", "left:-2", "left:1.5"),
        *("left:x", "left:inf", "rotate", "rotate:0", "rotate:360", "rotate:nan", "rotate:inf"),
    ],
)
def test_what_is_no_view_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(InvalidInput, match=r'is no view of a picture: write "mirror".*"rotate:5"'):
        View.parse(text)


def naive_shift(image: np.ndarray, text: str) -> np.ndarray:
    """Cut off at one side, and padded at the other with the border."""
    change, pixels = text.split(":")
    n = int(pixels)
    after = {"left": (2, 0, n), "right": (2, n, 0), "up": (1, 0, n), "down": (1, n, 0)}
    axis, before, behind = after[change]
    size = image.shape[axis]
    cut = np.take(image, np.arange(behind, size) if behind else np.arange(size - before), axis)
    padding = [(0, 0)] * 3
    padding[axis] = (before, behind)
    return np.pad(cut, padding, mode="edge")


@pytest.mark.parametrize("text", ["left:4", "right:4", "up:19", "down:1", "left:29"])
def test_a_shift_repeats_the_border_where_it_uncovers(text: str) -> None:
    expected = [naive_shift(image, text) for image in OBLONG.numpy()]
    np.testing.assert_array_equal(View.parse(text)(OBLONG).numpy(), np.stack(expected))


def test_mirror_exchanges_left_and_right_and_flip_turns_upside_down() -> None:
    picture = torch.tensor([[1.0, 2, 3], [4, 5, 6]])[None, None]
    assert View("mirror")(picture)[0, 0].tolist() == [[3, 2, 1], [6, 5, 4]]
    assert View("flip")(picture)[0, 0].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert View("left", 1)(picture)[0, 0].tolist() == [[2, 3, 3], [5, 6, 6]]
    assert View("down", 1)(picture)[0, 0].tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("degrees", [90, 180, 270, -90, 450])
def test_quarters_are_exact(degrees: int) -> None:
    expected = np.rot90(IMAGES.numpy(), degrees // 90, (2, 3))  # counter-clockwise
    turned = View("rotate", degrees)(IMAGES)
    np.testing.assert_array_equal(turned.numpy(), expected)
    assert View("rotate", 180)(OBLONG).shape == OBLONG.shape


@pytest.mark.parametrize("degrees", [5.0, -12.5, 100.0])
@pytest.mark.parametrize("images", [IMAGES, OBLONG], ids=["square", "oblong"])
def test_a_rotation_is_that_of_scipy(degrees: float, images: Tensor) -> None:
    """Bilinear, around the centre; beyond the border the nearest pixel."""
    expected = ndimage.rotate(
        images.double().numpy(), degrees, (3, 2), reshape=False, order=1, mode="nearest"
    )
    turned = View("rotate", degrees)(images.double())
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-9)
    single = View("rotate", degrees)(images)
    torch.testing.assert_close(single.double(), turned, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", ["mirror", "up:2", "rotate:7"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_dtype_shape_and_picture_stay(text: str, dtype: torch.dtype) -> None:
    images = (100 * OBLONG).to(dtype)
    before = images.clone()
    seen = View.parse(text)(images)
    assert (seen.dtype, seen.shape) == (dtype, images.shape)
    assert torch.equal(images, before)
    torch.testing.assert_close(seen.double(), View.parse(text)(images.double()), rtol=1e-2, atol=1)


def test_pictures_that_have_no_such_view_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'left:30' moves .* out of sight, .* 30 pixels wide"):
        View("left", 30)(OBLONG)
    with pytest.raises(InvalidInput, match=r"20 pixels high: shift it by fewer"):
        View("down", 25)(OBLONG)
    with pytest.raises(InvalidInput, match=r"'rotate:90' of a picture of 20 x 30 pixels"):
        View("rotate", 90)(OBLONG)
    with pytest.raises(InvalidInput, match=r"is of pictures .* shape \[6, 16\]"):
        View("mirror")(torch.zeros(6, 16))


def test_a_probe_measures_the_view_as_the_classifier_does_and_keeps_no_logits(
    model: nn.Module,
) -> None:
    classifier = Classifier(model)
    inner = Requirements((Tap("layer1", "max"),), prepool=True)
    probe = ViewProbe(View("left", 3), inner)
    found = classifier(IMAGES, requires=Requirements(probes=(probe,))).extras
    expected = classifier(View("left", 3)(IMAGES), requires=inner)
    assert tuple(found) == probe.names()
    torch.testing.assert_close(found["left:3/features"], expected.features)
    torch.testing.assert_close(found["left:3/layer1:max"], expected.taps["layer1:max"])
    torch.testing.assert_close(found["left:3/prepool_max"], expected.extras["prepool_max"])
    assert probe.layers() == ("layer1",)
    assert len(found) == 4


def test_two_requirements_of_one_view_do_not_disturb_each_other(model: nn.Module) -> None:
    probes = [ViewProbe(View("mirror"), r) for r in (NOTHING, Requirements(prepool=True))]
    found = Classifier(model)(IMAGES, requires=Requirements(probes=tuple(probes))).extras
    assert {name: len(value) for name, value in found.items()} == {
        "mirror/features": 5,
        "mirror/prepool_max": 5,
        "mirror/prepool_mean": 5,
    }


def test_a_view_is_run_over_whole_batches_as_the_images_are(model: nn.Module) -> None:
    many = torch.randn(50, 3, 32, 32, generator=DRAW)
    classifier = Classifier(model)
    classifier.find_head(many)
    sizes: list[int] = []
    handle = model.get_submodule("layer1").register_forward_hook(
        lambda module, taken, given: sizes.append(len(given))
    )
    classifier(many, requires=Requirements(probes=(ViewProbe(View("mirror"), NOTHING),)))
    handle.remove()
    assert sizes == [50, 50]


def test_a_view_is_computed_in_the_precision_of_the_network(model: nn.Module) -> None:
    half = Classifier(model, execution=Execution("bfloat16", channels_last=True))
    requires = Requirements(probes=(ViewProbe(View("mirror"), NOTHING),))
    found = half(IMAGES, requires=requires).extras["mirror/features"]
    assert torch.equal(found, half(View("mirror")(IMAGES)).features)
    assert not torch.equal(found, Classifier(model)(View("mirror")(IMAGES)).features)


class _InPlace(nn.Module):
    """A network that changes its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images.mul_(2))


def test_a_network_that_works_in_place_does_not_change_what_is_viewed(model: nn.Module) -> None:
    requires = Requirements(probes=(ViewProbe(View("mirror"), NOTHING),))
    found = Classifier(_InPlace(model))(IMAGES, requires=requires).extras["mirror/features"]
    expected = Classifier(model)(View("mirror")(2 * IMAGES)).features
    torch.testing.assert_close(found, expected)


def test_what_is_measured_otherwise_is_found_inside_of_views() -> None:
    from neroli.detectors import ODIN

    mirror = ViewProbe(View("mirror"), NOTHING)
    assert not measures_more(Requirements(probes=(mirror,)))
    assert measures_more(ODIN().requires)
    inside = ViewProbe(View("flip"), ODIN().requires)
    assert measures_more(Requirements(probes=(mirror, inside)))
