"""Models by name and their weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neroli import Classifier, Preprocessing
from neroli.artefact import ModelSource
from neroli.errors import ModelError
from neroli.models import (
    load_classifier,
    load_model,
    load_saved_model,
    model_source,
    read_weights,
    to,
)
from networks import colour_network, trained_colour_network


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(trained_colour_network().state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_own_models_come_from_a_factory_with_weights(weights: Path) -> None:
    loaded = load_model("networks:colour_network", weights)
    expected = trained_colour_network().state_dict()
    state = loaded.module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert loaded.preprocessing is loaded.class_names is None


def test_pt_files_are_read_without_unpickling_objects(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in trained_colour_network().state_dict().items()}
    for name, content in {
        "a.pt": state,
        "b.pth": {"state_dict": state},
        "c.pt": {"model": state},
    }.items():
        torch.save(content, tmp_path / name)
        assert read_weights(tmp_path / name).keys() == colour_network().state_dict().keys()
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "named.pt")
    assert read_weights(tmp_path / "named.pt").keys() == {"module.a", "b"}
    torch.save(trained_colour_network(), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="more than tensors.*state_dict"):
        read_weights(tmp_path / "whole.pt")


@pytest.mark.parametrize("content", [b"", b"junk", b"\x00" * 50])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="weights"):
        read_weights(path)


def test_weights_of_another_model_are_refused_by_key_or_shape(tmp_path: Path) -> None:
    state = trained_colour_network().state_dict()
    save_file({"fc.weight": state.pop("6.weight"), **state}, tmp_path / "keys.safetensors")
    with pytest.raises(ModelError, match=r"missing 6.weight, unknown fc.weight"):
        load_model("networks:colour_network", tmp_path / "keys.safetensors")
    state["6.weight"] = torch.zeros(7, 16)
    save_file(state, tmp_path / "shape.safetensors")
    with pytest.raises(ModelError, match=r"'6.weight' has shape \[7, 16\], the model's \[3, 16\]"):
        load_model("networks:colour_network", tmp_path / "shape.safetensors")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "names no model"),
        ("torchvision:resnet1", "torchvision has no classifier 'resnet1'.*resnet"),
        ("hf:gone", "no transformers model in 'gone'"),
        ("export:gone.pt2", "no exported program 'gone.pt2'"),
        ("gone.module:factory", "no module 'gone.module'"),
        ("networks:gone", "has no 'gone'"),
        ("own_models:not_a_factory", "gave a int"),
        ("own_models:fails", "own_models:fails raised AttributeError: .*nope"),
        ("broken_module:x", "broken_module:x raised RuntimeError: boom"),
        ("timm:resnet1", "timm has no model 'resnet1'.*resnet"),
    ],
)
def test_models_that_cannot_be_had_are_refused(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_models.py").write_text(
        "import torch\ndef not_a_factory(): return 5\ndef fails(): return torch.nope\n"
    )
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_batch_counters_may_be_missing_and_do_not_make_another_model(tmp_path: Path) -> None:
    state = trained_colour_network().state_dict()
    del state["1.num_batches_tracked"]
    save_file(state, tmp_path / "weights.safetensors")
    model = load_model("networks:colour_network", tmp_path / "weights.safetensors").module
    expected = Classifier(trained_colour_network()).weights_hash()
    assert Classifier(model).weights_hash() == expected


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file.*gone.pt"):
        load_model("networks:colour_network", tmp_path / "gone.pt")


def test_own_models_may_state_class_names_and_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stating_model.py").write_text(
        "from networks import colour_network\n"
        "from neroli import Preprocessing\n"
        "def make():\n"
        "    model = colour_network()\n"
        "    model.class_names = ('a', 'b', 'c')\n"
        "    model.preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, resize=8)\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    classifier = load_classifier("stating_model:make")
    assert classifier.class_names == ["a", "b", "c"]
    assert classifier.preprocessing is not None
    assert classifier.preprocessing.resize == 8
    other = Preprocessing((0.0,), (1.0,))
    assert load_classifier("stating_model:make", preprocessing=other).preprocessing is other


def test_a_guard_finds_its_weights_from_any_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = tmp_path / "deep" / "guard"
    guard.mkdir(parents=True)
    source = model_source("networks:colour_network", weights, guard)
    assert source.weights == "../../weights.safetensors"
    monkeypatch.chdir("/")
    load_saved_model(source, guard)
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(ModelError, match="no longer at.*--weights"):
        load_saved_model(source, guard)
    load_saved_model(source, guard, weights=moved)
    with pytest.raises(ModelError, match="--model"):
        load_saved_model(None, guard)
    own = ModelSource(model="gone:gone", weights=None)
    load_saved_model(own, guard, spec="networks:colour_network", weights=moved)


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ModelError, match="Cannot run on device 'abacus'"):
        to("abacus", colour_network())
