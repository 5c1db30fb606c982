"""Finding the linear head by checking numbers."""

import pytest
import torch
from torch import nn

from neroli import Classifier, LinearHead
from neroli.errors import HeadNotFound, InvalidInput
from networks import tiny_network


class Wrapped(nn.Module):
    """A backbone of 16 features and whatever comes behind it."""

    def __init__(self, tail: nn.Module, *, spatial: bool = False) -> None:
        super().__init__()
        self.backbone = tiny_network()[: 4 if spatial else 6]
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.backbone(x))


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class OutputObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network()

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.network(x))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = tiny_network()[:6]
        self.first, self.second = nn.Linear(16, 4), nn.Linear(16, 4)
        for head, bias in ((self.first, [9.0, 0, 0, 0]), (self.second, [0.0, 9, 0, 0])):
            head.bias.data = torch.tensor(bias)  # so that each yields one of the logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = self.backbone(x)
        return torch.maximum(self.first(f), self.second(f))


class ScaledLinear(nn.Linear):
    """A cosine-like head: its weight alone does not give its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * nn.functional.linear(nn.functional.normalize(x), self.weight, self.bias)


class LinearUnderAnotherName(nn.Module):
    """No nn.Linear, yet linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


class FunctionalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = tiny_network()[:6]
        self.matrix = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x) @ self.matrix.T


class CalledByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = tiny_network()[:6], nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(input=self.backbone(x))


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
POOLED_CONVOLUTION = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.Flatten())

FOUND = {
    "sequential": (tiny_network(), "6"),
    "linear then identity and dropout": (
        Wrapped(nn.Sequential(nn.Linear(16, 4), nn.Identity(), nn.Dropout(0.9))),
        "tail.0",
    ),
    "two linear layers": (Wrapped(nn.Sequential(nn.Linear(16, 9), nn.Linear(9, 4))), "tail.1"),
    "without bias": (Wrapped(nn.Linear(16, 4, bias=False)), "tail"),
    "1x1 convolution": (Wrapped(POOLED_CONVOLUTION, spatial=True), "tail.1"),
    "another name": (Wrapped(LinearUnderAnotherName()), "tail"),
    "output with .logits": (OutputObject(), "network.6"),
    "double precision": (tiny_network().double(), "6"),
    "called by keyword": (CalledByKeyword(), "fc"),
    "lazily shaped": (Wrapped(nn.LazyLinear(4)), "tail"),
}


@pytest.mark.parametrize(("model", "name"), FOUND.values(), ids=FOUND)
def test_finds_the_head_and_its_input(model: nn.Module, name: str) -> None:
    classifier = Classifier(model)
    activations = classifier(IMAGES)
    assert classifier.head_name == name
    expected = model.eval()(IMAGES.to(next(model.parameters()).dtype))
    expected = getattr(expected, "logits", expected)
    torch.testing.assert_close(activations.logits, expected)
    head = classifier.head
    by_hand = activations.features @ head.weight.T + head.bias
    torch.testing.assert_close(by_hand, expected, rtol=1e-4, atol=1e-4)


REFUSED = {
    "two heads": (TwoHeads(), "yields other values"),
    "softmax behind": (Wrapped(nn.Sequential(nn.Linear(16, 4), nn.Softmax(1))), "softmax"),
    "pooling after the head": (
        Wrapped(
            nn.Sequential(nn.Conv2d(16, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), spatial=True
        ),
        "not one row",
    ),
    "scaled": (Wrapped(ScaledLinear(16, 4)), "normalised or scaled"),
    "functional": (FunctionalHead(), "no linear layer"),
}


@pytest.mark.parametrize(("model", "reason"), REFUSED.values(), ids=REFUSED)
def test_refuses_a_model_without_linear_head_and_says_how_to_name_it(
    model: nn.Module, reason: str
) -> None:
    with pytest.raises(HeadNotFound, match=reason) as error:
        Classifier(model)(IMAGES)
    assert "head=" in str(error.value)


def test_named_head_before_a_softmax_gives_its_own_output_as_logits() -> None:
    model = Wrapped(nn.Sequential(nn.Linear(16, 4), nn.Softmax(1)))
    activations = Classifier(model, head="tail.0")(IMAGES)
    torch.testing.assert_close(activations.logits.softmax(1), model.eval()(IMAGES))


def test_named_head_must_exist_and_be_linear() -> None:
    with pytest.raises(HeadNotFound, match="no module 'fc'"):
        Classifier(tiny_network(), head="fc")
    with pytest.raises(HeadNotFound, match="'2' is a ReLU"):
        Classifier(tiny_network(), head="2")
    model = TwoHeads()
    model.second.bias.data += torch.tensor([0, 100.0, 0, 0])
    with pytest.raises(HeadNotFound, match="predicts other classes"):
        Classifier(model, head="first")(IMAGES)


def test_head_must_have_fitting_finite_tensors() -> None:
    with pytest.raises(InvalidInput, match=r"\[3\]"):
        LinearHead(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(InvalidInput, match="NaN"):
        LinearHead(torch.full((3, 2), torch.nan))
    assert LinearHead(torch.ones(3, 2)).bias.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_and_a_single_output_are_refused() -> None:
    with pytest.raises(HeadNotFound, match="TorchScript"):
        Classifier(torch.jit.trace(tiny_network().eval(), IMAGES))(IMAGES)
    with pytest.raises(InvalidInput, match="single output"):
        Classifier(tiny_network(num_classes=1))(IMAGES)
