"""ONNX files that are damaged, changed or not of neroli, and the noise they are checked on."""

import base64
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from colours import NEW
from neroli import load_classifier
from neroli.errors import InvalidInput, ModelError
from neroli.models import load_model
from neroli.models.onnx_file import STATEMENT, TENSORS, noise

onnx = pytest.importorskip("onnx", reason="the [onnx] extra is not installed")
for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the [onnx] extra is not installed")


def changed(file: Path, path: Path, **metadata: str | None) -> Path:
    """The file with other metadata; None takes the key away."""
    model = onnx.load(file)
    known = {each.key: each.value for each in model.metadata_props} | metadata
    model.ClearField("metadata_props")
    for key, value in known.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_files_that_cannot_be_read_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="There is no ONNX file"):
        load_model(f"onnx:{path}")
    whole = file.read_bytes()
    for content in (b"", b"no model", whole[:200], whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"m.onnx' (is no network that|\(damaged)"):
            load_model(f"onnx:{path}")
    newer = onnx.load(file)
    newer.ir_version = 9999
    path.write_bytes(newer.SerializeToString())
    with pytest.raises(ModelError, match=r"ONNX Runtime .* cannot load .*newer version"):
        load_model(f"onnx:{path}")


def test_files_that_neroli_did_not_export_are_refused_with_the_remedy(
    file: Path, tmp_path: Path
) -> None:
    helper, path = onnx.helper, tmp_path / "theirs.onnx"
    given = helper.make_tensor_value_info("input", 1, ["batch", 4])
    taken = helper.make_tensor_value_info("output", 1, ["batch", 4])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])], "g", [given], [taken]
    )
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), path
    )
    remedy = r"'input' \(tensor\(float\)\), 'output' .*export the network .* `neroli export`"
    with pytest.raises(ModelError, match=remedy):
        load_model(f"onnx:{path}")
    with pytest.raises(ModelError, match="no network that neroli exported"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: None})}")


def test_damaged_or_newer_statements_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    metadata = {each.key: each.value for each in onnx.load(file).metadata_props}
    later = metadata[STATEMENT].replace('"schema_version":1', '"schema_version":9')
    with pytest.raises(ModelError, match="m.onnx' says of itself has schema 9, newer.*upgrade"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: later})}")
    with pytest.raises(ModelError, match=r"says of itself is damaged .*: export it again"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: '{}'})}")
    tensors = load(base64.b64decode(metadata[TENSORS]))
    headless = save({name: t for name, t in tensors.items() if not name.endswith("bias")})
    for damaged in ("?", "AAAA", base64.b64encode(headless).decode()):
        with pytest.raises(ModelError, match=r"head in the ONNX file .* is damaged"):
            load_model(f"onnx:{changed(file, path, **{TENSORS: damaged})}")


def test_a_quantised_file_is_another_network_and_refused(file: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(file, tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match=r"differ from .* rounding explains .*quantised"):
        load_model(f"onnx:{tmp_path / 'int8.onnx'}")


def test_a_file_that_is_replaced_meanwhile_is_noticed(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(file, path)
    loaded = load_classifier(f"onnx:{path}")
    loaded(NEW)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(2 * values, tensor.name))
    onnx.save(model, path)
    torch.set_num_threads(2)  # a new session, of what now lies there
    with pytest.raises(InvalidInput, match="differ from those of the network it was exported from"):
        loaded(NEW)


def test_noise_is_spread_as_it_should_be_and_always_the_same() -> None:
    values = noise((3, 32, 32), 4)
    assert values.shape == (4, 3, 32, 32)
    assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01
    steps = [(i * 2_654_435_761 % 2**32 / 2**32 - 0.5) * 12**0.5 for i in (1, 2, 3)]
    torch.testing.assert_close(values.flatten()[:3], torch.tensor(steps))
