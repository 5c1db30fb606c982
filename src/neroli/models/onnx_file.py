"""Networks exported to ONNX: what neroli writes into the file beside the graph, and reads again."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from neroli import __version__
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, ModelError, first_line
from neroli.head import HeadPath, LinearHead
from neroli.models.loaded import extra
from neroli.models.statement import validated

SCHEMA_VERSION = 1
STATEMENT, TENSORS = "neroli", "neroli.tensors"
"""Keys of the file's metadata: a statement as JSON; head and features, safetensors in base64."""
IMAGES, LOGITS, FEATURES = "images", "logits", "features"
"""What the graph takes, ``[N, ...]`` with any N, and what it yields, ``[N, C]`` and ``[N, D]``."""
TOLERANCE = 1e-4
"""Largest difference that is taken for rounding, as a share of the largest value."""
_PROBES = 2
"""Images whose features are in the file."""


class OnnxStatement(pydantic.BaseModel):
    """What an exported network is.

    Attributes:
        network: name of its class.
        weights_hash: of the network it was exported from.
        head: path of the head in that network.
        input_shape: of one image.
        preprocessing: how pictures become the input, if that is known.
        class_names: of its C classes, if these are known.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: Literal["neroli onnx"] = "neroli onnx"
    schema_version: int = SCHEMA_VERSION
    neroli_version: str = __version__
    network: str
    weights_hash: str
    head: str
    input_shape: list[pydantic.PositiveInt] = pydantic.Field(min_length=1)
    preprocessing: Preprocessing | None
    class_names: list[str] | None


@dataclass(frozen=True, eq=False)
class OnnxContent:
    """What stands in a file beside the graph.

    Attributes:
        statement: what the network is.
        heads: the linear heads that ``statement.head`` names, in this order.
        features: ``[2, D]``, of the network for ``noise``, by which a session is checked.
    """

    statement: OnnxStatement
    heads: tuple[LinearHead, ...]
    features: Tensor

    def metadata(self) -> dict[str, str]:
        """The content as text, by its keys in the file's metadata."""
        tensors = {"features": self.features}
        for index, head in enumerate(self.heads):
            tensors |= {f"{index}.weight": head.weight, f"{index}.bias": head.bias}
        packed = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        return {
            STATEMENT: self.statement.model_dump_json(),
            TENSORS: base64.b64encode(packed).decode(),
        }

    @classmethod
    def of(cls, metadata: Mapping[str, str], path: Path) -> OnnxContent:
        """The content of a file's metadata.

        Raises:
            ModelError: if it is damaged, or a later neroli wrote it.
        """
        statement = validated(
            OnnxStatement,
            metadata[STATEMENT],
            SCHEMA_VERSION,
            f"What the ONNX file {str(path)!r} says of itself",
            "export it again",
        )
        try:
            tensors = load(base64.b64decode(metadata[TENSORS], validate=True))
            count = len(HeadPath.parse(statement.head).modules)
            heads = tuple(
                LinearHead(tensors[f"{index}.weight"], tensors[f"{index}.bias"])
                for index in range(count)
            )
            return cls(statement, heads, tensors["features"])
        except (KeyError, ValueError, SafetensorError, InvalidInput) as error:
            raise ModelError(
                f"The head in the ONNX file {str(path)!r} is damaged ({first_line(error)}): export "
                "it again."
            ) from None


def content_of(session: Any, path: Path) -> OnnxContent:
    """What a session's file says of itself.

    Raises:
        ModelError: if neroli did not export it, or not as it is now; or as ``OnnxContent.of``.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    given = {each.name: each.type for each in (*session.get_inputs(), *session.get_outputs())}
    wanted = dict.fromkeys((IMAGES, LOGITS, FEATURES), "tensor(float)")
    if given != wanted or not {STATEMENT, TENSORS} <= metadata.keys():
        found = ", ".join(f"{name!r} ({kind})" for name, kind in given.items())
        raise ModelError(
            f"{str(path)!r} is no network that neroli exported, or was changed since (it takes and "
            f"gives {found}): export the network it was made of with `neroli export`."
        )
    return OnnxContent.of(metadata, path)


def computed(session: Any, images: Tensor, names: Sequence[str] = (FEATURES,)) -> list[Tensor]:
    """What a session gives for images ``[N, ...]``, on their device, by the outputs' names."""
    images = images.detach().contiguous()
    if images.is_cuda:
        torch.cuda.synchronize(images.device)  # the runtime has a stream of its own
    place = images.device.type, images.device.index or 0
    widths = {each.name: each.shape[1] for each in session.get_outputs()}
    outputs = [images.new_empty(len(images), widths[name]) for name in names]
    binding = session.io_binding()
    binding.bind_input(IMAGES, *place, np.float32, list(images.shape), images.data_ptr())
    for name, output in zip(names, outputs, strict=True):
        binding.bind_output(name, *place, np.float32, list(output.shape), output.data_ptr())
    session.run_with_iobinding(binding)
    return outputs


def noise(shape: Sequence[int], count: int = _PROBES) -> Tensor:
    """Images of noise with mean 0 and variance 1, ``[count, *shape]`` float32, always the same.

    A multiplicative sequence (Knuth's), since generators of random numbers change over time.
    """
    steps = torch.arange(1, count * math.prod(shape) + 1)
    uniform = (steps * 2_654_435_761 % 2**32).double() / 2**32
    return ((uniform - 0.5) * math.sqrt(12)).float().view(count, *shape)


def differs(ours: Tensor, theirs: Tensor) -> str | None:
    """By how much, and how much could be rounding, as words; None if they are close."""
    largest = float(theirs.abs().max())
    difference = float((ours.double() - theirs.double()).abs().max())
    if difference <= TOLERANCE * largest:
        return None
    return f"by up to {difference:.2g}, where rounding explains {TOLERANCE * largest:.2g}"


def onnxruntime_for(wanted: str) -> ModuleType:
    """The package onnxruntime, with its telemetry off where it has any.

    Raises:
        ModelError: if it is not installed.
    """
    module = extra("onnx", "onnxruntime", wanted)
    module.disable_telemetry_events()
    return module


def session_of(path: Path, device: torch.device, threads: int) -> Any:
    """A session of ONNX Runtime that computes a file's graph.

    Args:
        path: of the file.
        device: where; the CPU or a CUDA device.
        threads: of the CPU that work at one image or batch.

    Raises:
        ModelError: if it cannot be read or run here.
    """
    runtime = onnxruntime_for(f"onnx:{path}")
    if not path.is_file():
        raise ModelError(f"There is no ONNX file {str(path)!r}.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # threads that wait busily take the cores from those that decode images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return runtime.InferenceSession(str(path), options, providers=_providers(runtime, device))
    except ModelError:
        raise
    except Exception as error:  # whatever the runtime meets in a damaged file
        raise ModelError(
            f"ONNX Runtime {runtime.__version__} cannot load {str(path)!r} (damaged, or of a newer "
            f"version?): {first_line(error)}"
        ) from None


def _providers(runtime: ModuleType, device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    name = "CUDAExecutionProvider"
    if device.type != "cuda" or name not in runtime.get_available_providers():
        raise ModelError(
            f"ONNX Runtime {runtime.__version__}, as it is installed here, cannot compute on "
            f"{str(device)!r}: choose the device cpu"
            + (", or install onnxruntime-gpu in its place." if device.type == "cuda" else ".")
        )
    exact = {"device_id": device.index or 0, "use_tf32": "0"}  # float32, as torch computes
    return [(name, exact), "CPUExecutionProvider"]
