"""Is the head of every architecture found, or refused with a reason? Never a wrong one.

    python benchmarks/architectures.py [--write] [NAME ...]

Makes one small network of each family of timm, torchvision and transformers, without downloads, and
gives it random parameters: none stays at the zeros or ones that some start from, batch norms have
the statistics of random images, and the weights are drawn smaller where the logits would not be of
order one to ten. ``Classifier`` then looks for the head on three random images. On three others
``W f + b`` must equal the network's own logits to 1e-4, absolutely, in float64; afterwards the
network must be without hooks and in the mode it was in.

``--write`` makes docs/models.md of the results. Ends with 1 if a head that was found is wrong, or
if fewer than 64 of all architectures work.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from neroli import Classifier
from neroli.errors import HeadNotFound
from neroli.models import import_torchvision

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BOUND = 1e-4
ENOUGH = 64
CLASSES = 10
IMAGES = 3
SOURCES = ("timm", "torchvision", "transformers")


@dataclass(frozen=True)
class Architecture:
    """A network by its name in one of the libraries, the size of its images, and its settings."""

    source: str
    name: str
    size: int = 224
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    advice: str = ""
    """What to do where no head is found."""

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    def make(self) -> nn.Module:
        """The network for ten classes, as its library initialises it."""
        import_torchvision()
        if self.source == "timm":
            return importlib.import_module("timm").create_model(
                self.name, num_classes=CLASSES, **self.settings
            )
        if self.source == "torchvision":
            models = importlib.import_module("torchvision.models")
            return models.get_model(self.name, num_classes=CLASSES, **self.settings)
        network = getattr(importlib.import_module("transformers"), self.name)
        return network(network.config_class(num_labels=CLASSES, **self.settings))


def timm(name: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    return Architecture("timm", name, size, settings, advice)


def torchvision(name: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    return Architecture("torchvision", name, size, settings, advice)


def transformers(name: str, size: int = 224, advice: str = "", **settings: Any) -> Architecture:
    return Architecture("transformers", f"{name}", size, settings, advice)


_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL_VIT = _SMALL | {"intermediate_size": 128, "image_size": 64, "patch_size": 16}
_SMALL_CLIP = {"vision_config": _SMALL_VIT}
_SMALL_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
_SMALL_CNN = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}

ARCHITECTURES: tuple[Architecture, ...] = (
    timm("resnet18"),
    timm("resnetv2_18"),
    timm("densenet121"),
    timm("efficientnet_b0"),
    timm("mobilenetv3_small_100"),
    timm("mobilenetv4_conv_small"),
    timm("regnetx_002"),
    timm("convnext_atto"),
    timm("convnextv2_atto"),
    timm("vgg11_bn"),
    timm("inception_v3", 299),
    timm("inception_v4", 299),
    timm("legacy_xception", 299),
    timm("nasnetalarge", 331),
    timm("hrnet_w18_small"),
    timm("dla46_c"),
    timm("res2net50_26w_4s"),
    timm("resnest14d"),
    timm("ghostnet_050"),
    timm("rexnet_100"),
    timm("tresnet_m"),
    timm("nfnet_l0"),
    timm("repvit_m0_9"),
    timm("fastvit_t8", 256),
    timm("vit_tiny_patch16_224"),
    timm("deit_tiny_patch16_224"),
    timm("deit_tiny_distilled_patch16_224"),
    timm("swin_tiny_patch4_window7_224"),
    timm("swinv2_tiny_window8_256", 256),
    timm("maxvit_tiny_tf_224"),
    timm("coatnet_nano_rw_224"),
    timm("mobilevit_xxs", 256),
    timm("levit_128s"),
    timm("volo_d1_224"),
    timm("crossvit_tiny_240", 240),
    timm("beit_base_patch16_224"),
    timm("eva02_tiny_patch14_224"),
    timm("cait_xxs24_224"),
    timm("xcit_nano_12_p16_224"),
    timm("pvt_v2_b0"),
    timm("poolformer_s12"),
    timm("mixer_s32_224"),
    timm("resmlp_12_224"),
    timm("efficientformer_l1"),
    timm("efficientvit_b0"),
    timm("hiera_tiny_224"),
    timm("davit_tiny"),
    timm("edgenext_xx_small", 256),
    timm("tiny_vit_5m_224"),
    timm("gcvit_xxtiny"),
    torchvision("alexnet"),
    torchvision("vgg11"),
    torchvision("resnet18"),
    torchvision("resnext50_32x4d"),
    torchvision("wide_resnet50_2"),
    torchvision("densenet121"),
    torchvision("squeezenet1_1"),
    torchvision("googlenet", init_weights=False),
    torchvision("inception_v3", 299, init_weights=False),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("mnasnet0_5"),
    torchvision("efficientnet_b0"),
    torchvision("regnet_x_400mf"),
    torchvision("convnext_tiny"),
    torchvision("vit_b_32"),
    torchvision("swin_t"),
    torchvision("maxvit_t"),
    transformers("ViTForImageClassification", 64, **_SMALL_VIT),
    transformers("ViTMSNForImageClassification", 64, **_SMALL_VIT),
    transformers("DeiTForImageClassification", 64, **_SMALL_VIT),
    transformers("DeiTForImageClassificationWithTeacher", 64, **_SMALL_VIT),
    transformers("BeitForImageClassification", 64, **_SMALL_VIT),
    transformers("Data2VecVisionForImageClassification", 64, **_SMALL_VIT),
    transformers("Dinov2ForImageClassification", 64, **_SMALL_VIT),
    transformers("Dinov2WithRegistersForImageClassification", 64, **_SMALL_VIT),
    transformers("IJepaForImageClassification", 64, **_SMALL_VIT),
    transformers("CLIPForImageClassification", 64, **_SMALL_CLIP),
    transformers("SiglipForImageClassification", 64, **_SMALL_CLIP),
    transformers("SwinForImageClassification", 64, **_SMALL_SWIN, window_size=2),
    transformers("Swinv2ForImageClassification", 64, **_SMALL_SWIN, window_size=2),
    transformers("DonutSwinForImageClassification", 64, **_SMALL_SWIN, window_size=2),
    transformers("FocalNetForImageClassification", 64, image_size=64, embed_dim=24),
    transformers("HieraForImageClassification"),
    transformers("ResNetForImageClassification", 64, **_SMALL_CNN, layer_type="basic"),
    transformers("RegNetForImageClassification", 64, **_SMALL_CNN, groups_width=8),
    transformers("BitForImageClassification", 64, hidden_sizes=[32, 64, 96, 128], embedding_size=32, num_groups=8),
    transformers("ConvNextForImageClassification", 64, hidden_sizes=[16, 32, 48, 64]),
    transformers("ConvNextV2ForImageClassification", 64, hidden_sizes=[16, 32, 48, 64]),
    transformers("MobileNetV1ForImageClassification", 128, depth_multiplier=0.25),
    transformers("MobileNetV2ForImageClassification", 128, depth_multiplier=0.35),
    transformers("MobileViTForImageClassification", 128, image_size=128),
    transformers("MobileViTV2ForImageClassification", 128, image_size=128),
    transformers("EfficientNetForImageClassification", 128, hidden_dim=1280),
    transformers("LevitForImageClassification"),
    transformers("LevitForImageClassificationWithTeacher"),
    transformers("PoolFormerForImageClassification", 128),
    transformers("PvtForImageClassification"),
    transformers("PvtV2ForImageClassification"),
    transformers("CvtForImageClassification"),
    transformers("SegformerForImageClassification", 128),
    transformers("SwiftFormerForImageClassification"),
    transformers("TextNetForImageClassification", 128),
    transformers("PerceiverForImageClassificationLearned", 32, image_size=32, num_latents=16, d_latents=64, num_self_attends_per_block=2),
    transformers("TimmWrapperForImageClassification", architecture="resnet18"),
)


def images_of(size: int, seed: int) -> Tensor:
    """Random pictures of coloured patches and noise, each of its own contrast: they must differ."""
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randn(IMAGES, 3, 5, 5, generator=draw)
    patches = nn.functional.interpolate(patches, (size, size), mode="bilinear")
    contrast = torch.linspace(0.5, 1.5, IMAGES)[:, None, None, None]
    return contrast * (patches + 0.5 * torch.randn(IMAGES, 3, size, size, generator=draw))


def randomise(model: nn.Module, images: Tensor, seed: int = 0) -> None:
    """Draw all parameters anew; smaller until the logits of the images are of order one to ten."""
    for gain in (1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.1):
        _draw(model, gain, torch.Generator().manual_seed(seed))
        _settle_batch_norms(model, images_of(images.shape[-1], seed + 100))
        with torch.no_grad():
            size = float(logits_of(model(images)).abs().max())
        if 0.2 < size < 20:
            return
    raise ValueError(f"the logits of these random weights are of size {size:.3g}")


def _draw(model: nn.Module, gain: float, draw: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape)
        if parameter.ndim >= 2 and len(parameter) > 1:
            drawn.normal_(0, gain * (parameter[0].numel() ** -0.5), generator=draw)
        elif name.endswith("bias") or parameter.ndim >= 2:  # a position or a token is [1, ., D]
            drawn.normal_(0, 0.1, generator=draw)
        else:  # the scale of a norm or of a layer
            drawn.uniform_(0.5, 1.5, generator=draw)
        parameter.data = drawn


def _settle_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, as training would."""
    model.eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = None  # the statistics are then of this one batch
            norm.reset_running_stats()
            norm.train()
    with torch.no_grad():
        model(images)
    model.eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None: norm.running_var += 0.1


def logits_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


if __name__ == "__main__":
    import traceback
    torch.set_num_threads(2)
    for a in ARCHITECTURES:
        if sys.argv[1:] and a.name not in sys.argv[1:]: continue
        t = time.time()
        try:
            m = a.make()
            t1 = time.time()
            x = images_of(a.size, 0)
            randomise(m, x)
            t2 = time.time()
            p = sum(q.numel() for q in m.parameters())/1e6
            c = Classifier(m)
            y = images_of(a.size, 1)
            try:
                c(x)
                f = c(y).features.double()
                with torch.no_grad(): l = logits_of(m(y)).double()
                e = (f @ c.head.weight.double().T + c.head.bias.double() - l).abs().max()
                print(a, c.head_name, f.shape[1], f"{e:.1e} |l|={l.abs().max():.2g} dl={l.std(0).mean():.2g} f={f.abs().max():.2g}", end=" ")
            except Exception as ex:
                print(a, type(ex).__name__, ex, end=" ")
            print(f"{p:.1f}M make {t1-t:.1f} rand {t2-t1:.1f} run {time.time()-t2:.1f}", flush=True)
        except Exception as ex:
            print("BROKEN", a, type(ex).__name__, str(ex)[:300], flush=True)
        gc.collect()
