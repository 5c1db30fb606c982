"""Heat maps of networks that have steps without rules: gradient times input, and why."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neroli import Classifier
from neroli.errors import InvalidInput
from neroli.explain import of_prediction, propagate

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class InPlace(nn.Module):
    """A network that works in place, from its input on; on request it ignores what that returns."""

    def __init__(self, forgetful: bool) -> None:
        super().__init__()
        self.conv, self.head, self.forgetful = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), forgetful

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.mul_(2))
        if self.forgetful:
            x.relu_()
        else:
            x = F.relu(x, inplace=True)
            x += 0.5
        return self.head(x.mean((2, 3)))


def test_in_place_operations() -> None:
    images = IMAGES.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = of_prediction(Classifier(InPlace(False)), images)
    assert heatmap.method == "lrp"
    assert torch.equal(images, IMAGES)


def test_in_place_operations_that_tracing_would_lose_are_found() -> None:
    heatmap = of_prediction(Classifier(InPlace(True)), IMAGES)
    assert heatmap.method == "gradient x input"
    assert heatmap.reason == "the network computes other features when it is traced"


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Unruly(nn.Module):
    """A network with one step in the middle."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.step = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), step

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(F.relu(self.conv(x))).mean((2, 3)))


def unseen_sum(x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        total = x + x**2
    return total.as_subclass(type(x))


def overwritten(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = 0
    return x


def broken(x: Tensor) -> Tensor:
    if type(x) is not Tensor:
        raise TypeError("only plain tensors")
    return x


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (_Doubled.apply, "there is no rule for its _DoubledBackward"),
        (lambda x: x.logcumsumexp(2), "there is no rule for its LogcumsumexpBackward0"),
        (unseen_sum, "there is no rule for its AddBackward0"),
        (overwritten, "there is no rule for its CopySlices"),
        (broken, "the propagation failed (The model cannot take images"),
        (F.dropout, "the network computes other features when it is traced"),
    ],
)
def test_without_a_rule_it_is_gradient_times_input(
    step: Callable[[Tensor], Tensor], reason: str
) -> None:
    model, start = Unruly(step), torch.randn(5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = propagate(Classifier(model, head="head"), IMAGES, start, batch_size=2)
    assert (heatmap.method, heatmap.rules) == ("gradient x input", None)
    assert heatmap.reason is not None and heatmap.reason.startswith(reason)
    assert torch.equal(heatmap.relevance, heatmap.channels.sum(1))
    if step is F.dropout:
        return
    leaf = IMAGES.clone().requires_grad_()
    features = step(F.relu(model.conv(leaf))).mean((2, 3))
    total = sum(
        (start[n, j] / features[n, j].detach()) * features[n, j]
        for n in range(5)
        for j in range(6)
        if features[n, j] != 0
    )
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(heatmap.channels, gradient * IMAGES, rtol=1e-4, atol=1e-5)


def test_a_step_beside_the_way_to_the_pixels_needs_no_rule() -> None:
    network = Unruly(lambda x: x * torch.arange(1.0, 7).logcumsumexp(0).view(6, 1, 1))
    assert of_prediction(Classifier(network), IMAGES).method == "lrp"


def test_other_warnings_of_the_model_still_reach_the_user() -> None:
    def step(x: Tensor) -> Tensor:
        warnings.warn("a dubious step", stacklevel=1)
        return x

    with pytest.warns(UserWarning, match="a dubious step"):
        assert of_prediction(Classifier(Unruly(step)), IMAGES).method == "lrp"


def test_features_that_no_gradient_reaches_are_an_error() -> None:
    with pytest.raises(InvalidInput, match="not differentiable"):
        of_prediction(Classifier(Unruly(lambda x: x.detach())), IMAGES)
    with pytest.raises(InvalidInput, match="cannot be differentiated: one of the variables"):
        of_prediction(
            Classifier(Unruly(lambda x: _Doubled.apply(x.sqrt()).mul_(x.add_(1)))), IMAGES
        )
