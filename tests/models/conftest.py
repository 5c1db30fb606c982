"""A network exported to ONNX once for all tests."""

from pathlib import Path

import pytest

import neroli
from colours import NEW, network


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour network, exported; copied by tests that change it."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the [onnx] extra is not installed")
    path = tmp_path_factory.mktemp("onnx") / "colours.onnx"
    written = neroli.export_onnx(network(), path, NEW)
    assert written.input_shape == (3, 8, 8)
    assert written.bytes == path.stat().st_size
    return path
