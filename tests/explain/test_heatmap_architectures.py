"""Heat maps of networks of timm and transformers, untrained and small."""

from typing import Any

import pytest
import torch
from torch import nn

from neroli import Classifier
from neroli.explain import of_prediction
from neroli.models import import_torchvision

import_torchvision()

SMALL_VIT = {"img_size": 32, "patch_size": 8, "depth": 2}
SMALL_SWIN = {
    "img_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 2),
    "num_heads": (2, 4),
}
LOST = {"composite": 0.15, "attention": 0.7}
"""Largest share of the relevance that may be lost on random weights: biases, stabilisers and, in
attention, softmax take some."""


def check(model: nn.Module, rules: str) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(model.eval())
    heatmap = of_prediction(classifier, images, batch_size=3)
    assert (heatmap.method, heatmap.rules, heatmap.reason) == ("lrp", rules, None)
    assert heatmap.relevance.abs().sum((1, 2)).gt(0).all()
    assert float(heatmap.conservation.max()) < LOST[rules]
    alone = of_prediction(classifier, images[1:2])
    scale = float(heatmap.channels[1].abs().max())
    assert float((alone.channels[0] - heatmap.channels[1]).abs().max()) < 1e-3 * scale
    model.requires_grad_(False)
    frozen = of_prediction(classifier, images, batch_size=3)
    torch.testing.assert_close(frozen.channels, heatmap.channels)


@pytest.mark.parametrize(
    ("name", "rules", "settings"),
    [
        ("resnet10t", "composite", {}),
        ("convnext_atto", "composite", {}),
        ("mobilenetv3_small_050", "composite", {}),  # a step of it, hardsigmoid, is replaced
        ("efficientnet_b0", "composite", {}),
        ("skresnet18", "composite", {}),  # softmax in a gate is no attention
        ("vit_tiny_patch16_224", "attention", SMALL_VIT),
        ("deit_tiny_distilled_patch16_224", "attention", SMALL_VIT),  # two heads, averaged
        ("swin_tiny_patch4_window7_224", "attention", SMALL_SWIN),
    ],
)
def test_networks_of_timm(name: str, rules: str, settings: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm")
    check(timm.create_model(name, pretrained=False, num_classes=7, **settings), rules)


def test_a_transformer_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    check(transformers.ViTForImageClassification(config), "attention")
