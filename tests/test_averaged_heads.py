"""Several linear heads whose average the model returns are one linear head."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neroli import Classifier, Guard
from neroli.detectors import Energy
from neroli.errors import HeadNotFound
from networks import tiny_network

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class NormLinear(nn.Module):
    """LeViT's head: a batch norm, dropout, a linear layer."""

    def __init__(self, inputs: int, classes: int, *, affine: bool = True) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(inputs, affine=affine)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(inputs, classes)
        self.bn.running_mean = torch.randn(inputs)
        self.bn.running_var = torch.rand(inputs) + 0.5
        if affine:
            nn.init.normal_(self.bn.weight)
            nn.init.normal_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.drop(self.bn(x)))


class Averaged(nn.Module):
    """Heads on one backbone's features, each on its own half of them if there are ``parts``."""

    def __init__(self, *heads: nn.Module, parts: bool = False, average: bool = True) -> None:
        super().__init__()
        self.backbone, self.heads = tiny_network()[:6], nn.ModuleList(heads)
        self.parts, self.average = parts, average

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        inputs = features.chunk(len(self.heads), 1) if self.parts else [features] * len(self.heads)
        outputs = torch.stack([head(f) for head, f in zip(self.heads, inputs, strict=True)])
        return outputs.mean(0) if self.average else outputs.sum(0)


def linear(inputs: int = 16) -> nn.Linear:
    return nn.Linear(inputs, 4)


FOUND = {
    "two tokens side by side": (Averaged(linear(8), linear(8), parts=True), "heads.0|heads.1", 16),
    "shared features": (Averaged(linear(), linear()), "heads.0+heads.1", 16),
    "three heads": (Averaged(linear(), linear(), linear()), "heads.0+heads.1+heads.2", 16),
    "batch norms folded": (
        Averaged(NormLinear(16, 4), NormLinear(16, 4)),
        "heads.0+heads.1",
        16,
    ),
    "plain batch norms folded": (
        Averaged(NormLinear(16, 4, affine=False), NormLinear(16, 4)),
        "heads.0+heads.1",
        16,
    ),
    "one batch norm stays in the backbone": (Averaged(NormLinear(16, 4)), "heads.0.linear", 16),
}


@pytest.mark.parametrize(("model", "name", "width"), FOUND.values(), ids=FOUND)
def test_finds_them_and_their_common_weights(model: nn.Module, name: str, width: int) -> None:
    classifier = Classifier(model)
    activations = classifier(IMAGES)
    assert classifier.head_name == name
    assert activations.num_features == classifier.head.num_features == width
    expected = model.eval()(IMAGES)
    torch.testing.assert_close(activations.logits, expected)
    torch.testing.assert_close(classifier.head(activations.features), expected)
    named = Classifier(model, head=name)
    torch.testing.assert_close(named(IMAGES).features, activations.features)


def test_the_weights_are_those_of_the_definition() -> None:
    first, second = linear(8), linear(8)
    classifier = Classifier(Averaged(first, second, parts=True))
    classifier(IMAGES)
    half = 0.5 * torch.cat([first.weight, second.weight], dim=1)
    torch.testing.assert_close(classifier.head.weight, half)
    torch.testing.assert_close(classifier.head.bias, 0.5 * (first.bias + second.bias))


def test_other_combinations_are_refused() -> None:
    with pytest.raises(HeadNotFound, match="yields other values than the model returns"):
        Classifier(Averaged(linear(), linear(), average=False))(IMAGES)
    model = Averaged(linear(), linear(8))
    with pytest.raises(HeadNotFound, match="do not read the same features"):
        Classifier(model, head="heads.0+heads.1")
    model = Averaged(linear(), nn.Linear(16, 3))
    with pytest.raises(HeadNotFound, match="equally many classes"):
        Classifier(model, head="heads.0|heads.1")
    model = Averaged(linear(), linear())
    model.heads[1].bias.data += torch.tensor([1000.0, 0, 0, 0])
    swapped = copy.deepcopy(model)
    swapped.heads.append(linear())
    swapped.heads[2].bias.data -= torch.tensor([9000.0, 0, 0, 0])
    with pytest.raises(HeadNotFound, match="'heads.0.heads.1' predicts other classes"):
        Classifier(swapped, head="heads.0+heads.1")(IMAGES)


def test_a_guard_of_averaged_heads_is_saved_and_loaded(tmp_path: Path) -> None:
    model = Averaged(linear(8), linear(8), parts=True)
    draw = torch.Generator().manual_seed(1)
    batches = [torch.randn(40, 3, 8, 8, generator=draw) for _ in range(4)]
    guard = Guard(Classifier(model), Energy()).fit(batches[:2]).calibrate(batches[2:])
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", model)
    assert loaded.manifest().classifier.head == "heads.0|heads.1"
    expected = -model.eval()(IMAGES).logsumexp(1)
    torch.testing.assert_close(loaded(IMAGES).score, expected.detach())
