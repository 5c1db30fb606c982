"""Models of torchvision, without any download."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from neroli.errors import ModelError, NeroliWarning
from neroli.models import import_torchvision, load_classifier, load_model

import_torchvision()
torchvision = pytest.importorskip("torchvision")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_the_number_of_classes_is_that_of_the_weights(tmp_path: Path, name: str) -> None:
    trained = torchvision.models.get_model(name, weights=None, num_classes=5)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(f"torchvision:{name}", tmp_path / "w.safetensors")
    state = loaded.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())
    assert loaded.class_names is None


@pytest.mark.parametrize("name", ["resnet50", "resnet50.IMAGENET1K_V1", "swin_t", "vit_b_16"])
def test_the_preprocessing_is_that_of_the_published_weights(name: str) -> None:
    network, _, version = name.partition(".")
    options = torchvision.models.get_model_weights(network)
    chosen = options[version] if version else options.DEFAULT
    with pytest.warns(NeroliWarning, match="untrained"):
        loaded = load_model(f"torchvision:{name}")
    assert loaded.preprocessing is not None
    theirs = chosen.transforms()(PICTURE)
    torch.testing.assert_close(loaded.preprocessing(PICTURE), theirs, rtol=1e-4, atol=1e-5)
    assert loaded.class_names == chosen.meta["categories"]


def test_unknown_weights_and_networks_that_transform_their_input_are_refused() -> None:
    with pytest.raises(ModelError, match="no weights 'V9' of resnet18; it has IMAGENET1K_V1"):
        load_model("torchvision:resnet18.V9")
    with pytest.raises(ModelError, match="googlenet may transform its input"):
        load_model("torchvision:googlenet.IMAGENET1K_V1")


def test_a_loaded_classifier_runs_on_pictures(tmp_path: Path) -> None:
    trained = torchvision.models.get_model("mobilenet_v3_small", weights=None, num_classes=5)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    classifier = load_classifier("torchvision:mobilenet_v3_small", tmp_path / "w.safetensors")
    activations = classifier(PICTURE)
    assert classifier.head_name == "classifier.3"
    assert classifier.preprocessing is not None
    expected = trained.eval()(classifier.preprocessing(PICTURE)[None])
    torch.testing.assert_close(activations.logits, expected)
