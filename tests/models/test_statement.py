"""Weights that say what they are, and weights of other classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conftest import COLOUR_PREPROCESSING
from neroli import Preprocessing
from neroli.errors import ModelError
from neroli.models import import_torchvision, load_classifier, load_model
from neroli.models.statement import Epoch, Statement, write_weights
from networks import COLOURS, tiny_network, trained_colour_network

STATEMENT = Statement(
    arch="networks:colour_network",
    class_names=list(COLOURS),
    preprocessing=COLOUR_PREPROCESSING,
    key="k",
    epoch=2,
    validation_accuracy=0.75,
    validation_images=40,
    unreadable=0,
    history=[Epoch(epoch=1, loss=0.5), Epoch(epoch=2, loss=0.4, validation_accuracy=0.75)],
)


def write(path: Path, **changes: Any) -> Path:
    content = STATEMENT.model_dump(mode="json") | changes
    save_file(trained_colour_network().state_dict(), path, {"neroli": json.dumps(content)})
    return path


def test_what_weights_say_needs_no_further_options(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, trained_colour_network().state_dict(), STATEMENT)
    classifier = load_classifier("networks:colour_network", path)
    assert classifier.class_names == list(COLOURS)
    assert classifier.preprocessing == COLOUR_PREPROCESSING


def test_what_weights_say_goes_before_what_timm_says_of_its_network(tmp_path: Path) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    path = tmp_path / "w.safetensors"
    network = timm.create_model("resnet18", pretrained=False, num_classes=3)
    write_weights(path, network.state_dict(), STATEMENT)
    assert load_model("timm:resnet18", path).preprocessing == COLOUR_PREPROCESSING


def test_an_own_preprocessing_goes_before_what_weights_say(tmp_path: Path) -> None:
    other = Preprocessing((0.0,) * 3, (1.0,) * 3)
    path = write(tmp_path / "w.safetensors")
    loaded = load_classifier("networks:colour_network", path, preprocessing=other)
    assert loaded.preprocessing == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "red"}, "damaged.*class_names"),
        ({"preprocessing": {"mean": [0.5], "std": [0]}}, "damaged.*preprocessing"),
        ({"preprocessing": None}, "damaged.*preprocessing"),
        ({"epoch": "last"}, "damaged.*epoch"),
        ({"format": "other"}, "damaged.*format"),
        ({"more": 1}, "damaged.*more"),
        ({"schema_version": 99}, "schema 99, newer than the 1.*upgrade"),
    ],
)
def test_a_damaged_statement_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "w.safetensors", **changes)
    with pytest.raises(ModelError, match=message):
        load_model("networks:colour_network", path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": 1}'])
def test_a_statement_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(trained_colour_network().state_dict(), path, {"neroli": text})
    with pytest.raises(ModelError, match="say.* of themselves is damaged.*train them again"):
        load_model("networks:colour_network", path)


def test_metadata_of_other_programs_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(trained_colour_network().state_dict(), path, {"format": "pt"})
    assert load_model("networks:colour_network", path).class_names is None


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_of_other_classes_give_all_but_the_head(library: str, tmp_path: Path) -> None:
    import_torchvision()
    pytest.importorskip(library)
    torch.manual_seed(1)
    trained = load_model(f"{library}:resnet18", num_classes=7).module  # without a warning
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(f"{library}:resnet18", tmp_path / "w.safetensors", num_classes=3)
    assert loaded.new_layers == ("fc.weight", "fc.bias")
    state = loaded.module.state_dict()
    assert state["fc.weight"].shape == (3, 512)
    same = [n for n, v in trained.state_dict().items() if torch.equal(v, state[n])]
    assert set(state) - set(same) == {"fc.weight", "fc.bias"}


def test_weights_of_as_many_classes_give_the_head_too(tmp_path: Path) -> None:
    save_file(trained_colour_network().state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("networks:colour_network", tmp_path / "w.safetensors", num_classes=3)
    assert loaded.new_layers == ()
    assert torch.equal(
        loaded.module.state_dict()["6.weight"], trained_colour_network().state_dict()["6.weight"]
    )


def test_weights_of_another_architecture_are_still_refused(tmp_path: Path) -> None:
    save_file(tiny_network(3, channels=1).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="'0.weight' has shape"):
        load_model("networks:colour_network", tmp_path / "w.safetensors", num_classes=3)
