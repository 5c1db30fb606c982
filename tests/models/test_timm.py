"""Models of timm, without any download."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from neroli.errors import NeroliWarning
from neroli.models import import_torchvision, load_classifier, load_model

import_torchvision()
timm = pytest.importorskip("timm")


def test_the_number_of_classes_is_that_of_the_weights(tmp_path: Path) -> None:
    for name in ("resnet18", "deit_tiny_distilled_patch16_224", "crossvit_9_240", "levit_128s"):
        trained = timm.create_model(name, pretrained=False, num_classes=5)
        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        loaded = load_model(f"timm:{name}", tmp_path / "w.safetensors")
        state = loaded.module.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())
        assert loaded.class_names is None


def test_its_data_configuration_becomes_the_preprocessing(tmp_path: Path) -> None:
    trained = timm.create_model("resnet18", pretrained=False, num_classes=5)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    preprocessing = load_classifier("timm:resnet18", tmp_path / "w.safetensors").preprocessing
    assert preprocessing is not None
    assert (preprocessing.resize, preprocessing.crop) == (235, (224, 224))
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.interpolation == "bicubic"


def test_the_preprocessing_equals_timms_own_transform() -> None:
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (300, 411, 3), dtype=np.uint8))
    for name in ("resnet18", "vit_tiny_patch16_224", "efficientnet_b0"):
        with pytest.warns(NeroliWarning, match="untrained"):
            loaded = load_model(f"timm:{name}")
        data = timm.data.resolve_model_data_config(loaded.module)
        theirs = timm.data.create_transform(**data)(picture)
        assert loaded.preprocessing is not None
        torch.testing.assert_close(loaded.preprocessing(picture), theirs, rtol=1e-4, atol=1e-5)


def test_networks_of_imagenet_have_its_class_names() -> None:
    with pytest.warns(NeroliWarning, match="untrained"):
        names = load_model("timm:resnet18").class_names
    assert names is not None
    assert len(names) == 1000
    assert names[0].startswith("tench")
