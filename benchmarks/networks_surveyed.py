"""The networks in which ``architectures.py`` looks for heads: one small member of each family."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from neroli.models import import_torchvision

CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A network by its name in one of the libraries, the size of its images, and its settings."""

    source: str
    name: str
    size: int = 224
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    advice: str = ""
    """What to do where no head is found."""

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    def make(self) -> nn.Module:
        """The network for ten classes, as its library initialises it."""
        import_torchvision()
        if self.source == "timm":
            create = importlib.import_module("timm").create_model
            return create(self.name, num_classes=CLASSES, **self.settings)
        if self.source == "torchvision":
            create = importlib.import_module("torchvision.models").get_model
            return create(self.name, weights=None, num_classes=CLASSES, **self.settings)
        network = getattr(importlib.import_module("transformers"), self.name)
        return network(network.config_class(num_labels=CLASSES, **self.settings))


def timm(name: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    """A network of ``timm.create_model``."""
    return Architecture("timm", name, size, settings, advice)


def torchvision(name: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    """A network of ``torchvision.models.get_model``."""
    return Architecture("torchvision", name, size, settings, advice)


def transformers(family: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    """A ``...ForImageClassification`` of transformers, made of a small configuration."""
    before, _, behind = family.partition(" ")
    return Architecture(
        "transformers", f"{before}ForImageClassification{behind}", size, settings, advice
    )


_VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}
_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
_CNN = {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}

_VOLO = (
    "It adds to its head half the maximum of a second one over all patches, which is not linear. "
    "After `model.aux_head = None` it decides by the class token alone, and works; its accuracy "
    "is then no longer the published one."
)
_SQUEEZENET = (
    "It rectifies its class maps before it averages them, so nothing linear comes last. Train it "
    "with `model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
    "nn.Linear(512, C))`, or take another network."
)
_EFFICIENTVIM = (
    "It adds up the heads of four stages with learned weights. Train one `nn.Linear` on what "
    "`model.forward_head(..., pre_logits=True)` returns, the features of all stages side by side, "
    "or take another network."
)
_PP_LCNET = (
    "transformers returns its logits as `last_hidden_state`, not as `logits`. Wrap it in a module "
    "whose `forward` returns `self.model(images).last_hidden_state`."
)

ARCHITECTURES = (
    timm("resnet18", 128),
    timm("densenet121", 128),
    timm("efficientnet_b0"),
    timm("mobilenetv3_small_100"),
    timm("mobilenetv4_conv_small"),
    timm("regnetx_002"),
    timm("convnext_atto"),
    timm("convnextv2_atto"),
    timm("vgg11_bn"),
    timm("inception_v4", 160),
    timm("legacy_xception", 128),
    timm("nasnetalarge", 96),
    timm("hrnet_w18_small", 128),
    timm("dla46_c"),
    timm("res2net50_26w_4s", 128),
    timm("resnest14d", 128),
    timm("ghostnet_050"),
    timm("rexnet_100"),
    timm("tresnet_m", 128),
    timm("nfnet_l0", 128),
    timm("repvit_m0_9"),
    timm("fastvit_t8", 256),
    timm("starnet_s050"),
    timm("shvit_s1"),
    timm("vit_tiny_patch16_224"),
    timm("deit_tiny_patch16_224"),
    timm("deit_tiny_distilled_patch16_224"),
    timm("pit_ti_distilled_224"),
    timm("swin_tiny_patch4_window7_224"),
    timm("swinv2_tiny_window8_256", 256),
    timm("maxvit_tiny_tf_224"),
    timm("coatnet_nano_rw_224"),
    timm("mobilevit_xxs", 256),
    timm("levit_128s"),
    timm("volo_d1_224", advice=_VOLO),
    timm("crossvit_tiny_240", 240),
    timm("beit_base_patch16_224", depth=2),
    timm("eva02_tiny_patch14_224"),
    timm("cait_xxs24_224"),
    timm("xcit_nano_12_p16_224"),
    timm("pvt_v2_b0"),
    timm("poolformer_s12"),
    timm("convformer_s18"),
    timm("mixer_s32_224"),
    timm("resmlp_12_224"),
    timm("efficientformer_l1"),
    timm("efficientvit_b0"),
    timm("efficientvim_m1", advice=_EFFICIENTVIM),
    timm("hiera_tiny_224"),
    timm("davit_tiny"),
    timm("edgenext_xx_small", 256),
    timm("tiny_vit_5m_224"),
    timm("gcvit_xxtiny"),
    timm("mambaout_femto"),
    torchvision("alexnet"),
    torchvision("vgg11", 128),
    torchvision("resnet18", 128),
    torchvision("resnext50_32x4d", 128),
    torchvision("wide_resnet50_2", 128),
    torchvision("densenet121", 128),
    torchvision("squeezenet1_1", advice=_SQUEEZENET),
    torchvision("googlenet", init_weights=False),
    torchvision("inception_v3", 160, init_weights=False),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("mnasnet0_5"),
    torchvision("efficientnet_b0"),
    torchvision("regnet_x_400mf"),
    torchvision("convnext_tiny", 128),
    torchvision("vit_b_32"),
    torchvision("swin_t"),
    torchvision("maxvit_t"),
    transformers("ViT", 64, **_VIT),
    transformers("ViTMSN", 64, **_VIT),
    transformers("DeiT", 64, **_VIT),
    transformers("DeiT WithTeacher", 64, **_VIT),
    transformers("Beit", 64, **_VIT),
    transformers("Data2VecVision", 64, **_VIT),
    transformers("Dinov2", 64, **_VIT),
    transformers("Dinov2WithRegisters", 64, **_VIT),
    transformers("IJepa", 64, **_VIT),
    transformers("CLIP", 64, vision_config=_VIT),
    transformers("Siglip", 64, vision_config=_VIT),
    transformers("Swin", 64, window_size=2, **_SWIN),
    transformers("Swinv2", 64, window_size=2, **_SWIN),
    transformers("FocalNet", 64, image_size=64, embed_dim=24),
    transformers("Hiera", embed_dim=48),
    transformers("ResNet", 64, layer_type="basic", **_CNN),
    transformers("RegNet", 64, groups_width=8, **_CNN),
    transformers("Bit", 64, num_groups=8, **_CNN),
    transformers("ConvNext", 64, hidden_sizes=[16, 32, 48, 64]),
    transformers("ConvNextV2", 64, hidden_sizes=[16, 32, 48, 64]),
    transformers("MobileNetV1", 128, depth_multiplier=0.25),
    transformers("MobileNetV2", 128, depth_multiplier=0.35),
    transformers("MobileViT", 128, image_size=128),
    transformers("MobileViTV2", 128, image_size=128),
    transformers(
        "EfficientNet", 128, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
    ),
    transformers("Levit"),
    transformers("Levit WithTeacher"),
    transformers("PoolFormer", 128),
    transformers("Pvt"),
    transformers("PvtV2"),
    transformers("Cvt"),
    transformers("Segformer", 128),
    transformers("SwiftFormer"),
    transformers("TextNet", 128),
    transformers("PPLCNet", advice=_PP_LCNET),
    transformers(
        "Perceiver Learned",
        32,
        image_size=32,
        num_latents=16,
        d_latents=64,
        num_self_attends_per_block=2,
    ),
    transformers("TimmWrapper", 128, architecture="resnet18"),
)
