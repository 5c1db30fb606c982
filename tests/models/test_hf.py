"""Models of transformers from local folders, made in the test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from neroli.errors import ModelError, NeroliWarning
from neroli.models import import_torchvision, load_classifier, load_model

import_torchvision()
transformers = pytest.importorskip("transformers")

NOISE = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(NOISE).resize(size) for size in ((411, 300), (340, 500))]


def tiny_vit(**settings: Any) -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        **settings,
    )
    model: nn.Module = transformers.ViTForImageClassification(config).eval()
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As ``save_pretrained`` leaves a fine-tuned ViT."""
    tiny_vit(id2label={0: "cecum", 1: "pylorus", 2: "polyp"}).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "vit"
    )
    return tmp_path / "vit"


def test_a_folder_gives_the_network_its_classes_and_its_preprocessing(folder: Path) -> None:
    classifier = load_classifier(f"hf:{folder}")
    assert classifier.class_names == ["cecum", "pylorus", "polyp"]
    expected = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(PICTURES, return_tensors="pt")
    with torch.no_grad():
        logits = expected(**inputs).logits
    activations = classifier(PICTURES)
    torch.testing.assert_close(activations.logits, logits, rtol=1e-4, atol=1e-5)
    assert classifier.head_name == "classifier"


PROCESSORS = {
    "ViT": {},
    "ConvNext": {"size": {"shortest_edge": 224}},
    "ConvNext large": {"size": {"shortest_edge": 384}},
    "Levit": {},
    "DeiT": {},
    "Bit": {},
    "PoolFormer": {},
    "MobileNetV2": {},
    "MobileViT": {
        "do_flip_channel_order": False,
        "size": {"shortest_edge": 288},
        "crop_size": {"height": 256, "width": 256},
    },
    "Beit": {},
    "Segformer": {},
    "ViT unnormalised": {"do_normalize": False},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_preprocessing_equals_the_image_processors(folder: Path, kind: str) -> None:
    make = getattr(transformers, f"{kind.split()[0]}ImageProcessor")
    make(**PROCESSORS[kind]).save_pretrained(folder)
    ours = load_model(f"hf:{folder}").preprocessing
    assert ours is not None
    theirs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    for picture in PICTURES:
        expected = theirs(picture, return_tensors="pt")["pixel_values"][0]
        # image processors round the corner of a crop down, torchvision to the nearest pixel
        assert (ours(picture) - expected).abs().max() < 0.12


def test_an_image_processor_that_does_something_else_is_said_and_not_guessed(folder: Path) -> None:
    transformers.MobileViTImageProcessor().save_pretrained(folder)  # swaps red and blue
    with pytest.warns(NeroliWarning, match="MobileViTImageProcessor.*channel order"):
        assert load_model(f"hf:{folder}").preprocessing is None


def test_a_backbone_without_trained_head_is_refused(folder: Path) -> None:
    base = transformers.ViTModel(tiny_vit().config, add_pooling_layer=False)
    base.save_pretrained(folder)
    with pytest.raises(ModelError, match="not of an image classifier: classifier.bias"):
        load_model(f"hf:{folder}")


def test_other_weights_are_loaded_strictly(folder: Path, tmp_path: Path) -> None:
    other = tiny_vit(num_labels=3)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(f"hf:{folder}", tmp_path / "w.safetensors")
    assert torch.equal(loaded.module.classifier.weight, other.classifier.weight)  # type: ignore[union-attr, arg-type]
    save_file({"classifier.bias": torch.zeros(3)}, tmp_path / "some.safetensors")
    with pytest.raises(ModelError, match="missing classifier.weight.* and .* more"):
        load_model(f"hf:{folder}", tmp_path / "some.safetensors")


def test_numbered_labels_are_no_class_names(folder: Path) -> None:
    tiny_vit(num_labels=3).save_pretrained(folder)
    assert load_model(f"hf:{folder}").class_names is None


def test_damaged_folders_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="Cannot load an image classifier"):
        load_model(f"hf:{folder}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="Cannot load an image classifier"):
        load_model(f"hf:{folder}")
    for content, message in {
        "{": "Cannot read '.*config.json'",
        "[]": "must hold a JSON object",
        json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}): "auto_map",
        json.dumps({"model_type": "timm_wrapper", "architecture": "hf_hub:timm/x"}): "from a hub",
    }.items():
        (folder / "config.json").write_text(content)
        with pytest.raises(ModelError, match=message):
            load_model(f"hf:{folder}")
