"""What can be exported to ONNX, what cannot, and what happens then."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import neroli
from colours import NEW, network
from neroli import Classifier, Preprocessing, load_classifier
from neroli.errors import ArtefactError, InvalidInput, ModelError
from neroli.models import onnx_export as exporting
from networks import (
    COLOURS,
    tiny_network,
)

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the [onnx] extra is not installed")


class Wrong(nn.Module):
    """A network that an exporter sees otherwise than it is, or not at all."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = tiny_network(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "otherwise" and torch.compiler.is_exporting():
            x = x * 1.01
        if self.how == "branches" and x.sum() > 0:
            x = x * 2
        logits: Tensor = self.body(x)
        return logits


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ModelError, match=r"differ from the network's by up to 0\.\d+, where round"):
        neroli.export_onnx(Classifier(Wrong("otherwise").eval()), path, NEW)
    assert path.read_bytes() == b"what was there"
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_what_cannot_be_exported_is_refused_with_the_reason(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    tiny = tiny_network().eval()
    with pytest.raises(ModelError, match="torch cannot export this Wrong to ONNX: .+"):
        neroli.export_onnx(Classifier(Wrong("branches").eval()), path, NEW)
    with pytest.raises(ModelError, match=r"computes in torch.float64.*export model.float\(\)"):
        neroli.export_onnx(Classifier(copy.deepcopy(tiny).double()), path, NEW)
    with pytest.raises(ModelError, match="Exporting a network needs the network's layers"):
        neroli.export_onnx(load_classifier(f"onnx:{file}"), path, NEW)
    with pytest.raises(InvalidInput, match="size of the network's images is not known: give imag"):
        neroli.export_onnx(Classifier(tiny), path)
    shorter = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=8)
    with pytest.raises(InvalidInput, match="shorter side.*has 8 pixels, the longer any"):
        neroli.export_onnx(Classifier(tiny, preprocessing=shorter), path)
    with pytest.raises(ArtefactError, match="is a folder"):
        neroli.export_onnx(Classifier(tiny), tmp_path, NEW)
    monkeypatch.setattr(exporting, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds no more than"):
        neroli.export_onnx(Classifier(tiny), path, NEW)
    assert not path.exists()


def test_the_network_is_given_back_as_it_was_found(tmp_path: Path) -> None:
    given = network()
    given.model.train()
    given.model[4].eval()
    neroli.export_onnx(given, tmp_path / "m.onnx", NEW)
    assert [module.training for module in given.model] == [True] * 4 + [False] + [True] * 2
    assert not any(module._forward_hooks for module in given.model.modules())
    assert all(parameter.requires_grad for parameter in given.model.parameters())
    torch.testing.assert_close(given(NEW).logits, network()(NEW).logits)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_said_with_the_extra_that_brings_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=r"Exporting to ONNX needs .*\[onnx\] extra"):
        neroli.export_onnx(network(), tmp_path / "m.onnx", NEW)
    if package == "onnxruntime":
        with pytest.raises(ModelError, match=r"colours.onnx needs onnx: .*\[onnx\] extra"):
            load_classifier(f"onnx:{file}")
    else:
        assert load_classifier(f"onnx:{file}").class_names == list(COLOURS)
