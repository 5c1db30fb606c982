"""Exporting a classifier to ONNX: one file that gives logits and features, checked before it is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neroli.classifier import Classifier
from neroli.errors import ArtefactError, InvalidInput, ModelError, first_line
from neroli.files import atomic_path
from neroli.head import HeadPath
from neroli.models.loaded import extra
from neroli.models.onnx_file import (
    FEATURES,
    IMAGES,
    LOGITS,
    OnnxContent,
    OnnxStatement,
    computed,
    differs,
    noise,
    session_of,
)
from neroli.running import LastCalls, watched
from neroli.stand_in import StandIn

MAX_BYTES = 2_000_000_000
"""Of weights in one ONNX file, which holds 2 GiB with its graph; larger ones are several files."""
_CHECKED = 8
"""Images on which the file is compared with the network."""
_HINT = "give images of the size it takes, as export_onnx(classifier, path, images) or --images"


@dataclass(frozen=True)
class OnnxExport:
    """A file that was written, and how well it computes what the network does.

    Attributes:
        path: of the file.
        bytes: its size.
        head: path of the head in the network.
        input_shape: of one image.
        images: how many it was compared on.
        features_difference: the largest to the network's features.
        logits_difference: and to its logits.
    """

    path: Path
    bytes: int
    head: str
    input_shape: tuple[int, ...]
    images: int
    features_difference: float
    logits_difference: float


def export_onnx(classifier: Classifier, path: Path | str, images: Any = None) -> OnnxExport:
    """Write a classifier to an ONNX file, which ``load_classifier("onnx:FILE")`` takes.

    The file takes ``images`` of any number and gives ``logits`` and the head's input ``features``.
    It holds all that is needed to use it without the network: head, preprocessing, class names, and
    the hash by which guards know the network.

    Args:
        classifier: of a float32 network.
        path: of the file; one that is there is replaced once the new one is known to be right.
        images: a few images as the classifier takes them, on which both are compared, and whose
            shape the file is for. Noise when left out, of the size that the preprocessing gives.

    Raises:
        ModelError: if a package is missing, the network cannot be exported, is not float32 or too
            large for one file, or the file computes something else.
        HeadNotFound: if the network has no linear head.
        InvalidInput: if the images cannot be used, or their size is not known.
        ArtefactError: if the file cannot be written.
    """
    path = Path(path)
    for package in ("onnx", "onnxruntime", "onnxscript"):
        extra("onnx", package, "Exporting to ONNX")
    if path.is_dir():
        raise ArtefactError(f"{str(path)!r} is a folder: name a file to write the network to.")
    if isinstance(classifier.model, StandIn):
        raise ModelError(classifier.model.refusal("Exporting a network needs"))
    if images is None:
        images = noise(_input_shape(classifier), _CHECKED)
    images = classifier.placed(classifier.prepare(images)[:_CHECKED]).clone()
    _check_float32(images.dtype)
    batch = classifier(images)
    _check_float32(batch.features.dtype)
    content = _content(classifier, tuple(images.shape[1:]))
    _check_size(classifier.model, content)
    proto = _graph(classifier, images)
    for key, value in content.metadata().items():
        proto.metadata_props.add(key=key, value=value)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        found = _compared(classifier, images, temporary)
    return OnnxExport(
        path,
        path.stat().st_size,
        content.statement.head,
        tuple(content.statement.input_shape),
        len(images),
        *found,
    )


class _Outputs(nn.Module):
    """The network as the file has it: logits and features of images."""

    def __init__(self, model: nn.Module, head: HeadPath, calls: LastCalls) -> None:
        super().__init__()
        self.model, self.head, self.calls = model, head, calls

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.model(images.clone())  # a model may work in place
        features, logits = self.head.read(self.calls)
        return logits, features


def _graph(classifier: Classifier, images: Tensor) -> Any:
    """The network as an ONNX model, without what the exporter notes of its source code.

    Raises:
        ModelError: if torch cannot export it, with its reason.
    """
    head, calls = HeadPath.parse(classifier.head_name), LastCalls()
    two = images[:2] if len(images) > 1 else images.expand(2, *images.shape[1:]).clone()
    try:
        with _quiet(), watched(classifier.model, calls.watch(head.modules)):
            program = torch.export.export(
                _Outputs(classifier.model, head, calls),
                (two,),
                dynamic_shapes={IMAGES: {0: torch.export.Dim("batch")}},
                strict=False,
            )
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[IMAGES],
                output_names=[LOGITS, FEATURES],
                external_data=False,
                verbose=False,
            )
        assert made is not None
        proto: Any = made.model_proto
    except Exception as error:  # whatever the exporter meets in the user's network
        raise ModelError(
            f"torch cannot export this {type(classifier.model).__name__} to ONNX: "
            f"{first_line(error)}"
        ) from error
    for part in (proto.graph, *proto.functions):
        part.ClearField("metadata_props")
        for each in (*part.node, *part.value_info):
            each.ClearField("metadata_props")  # such as paths on this machine
            each.ClearField("doc_string")
    proto.ClearField("metadata_props")
    return proto


def _content(classifier: Classifier, input_shape: tuple[int, ...]) -> OnnxContent:
    head = HeadPath.parse(classifier.head_name)
    return OnnxContent(
        OnnxStatement(
            network=type(classifier.model).__name__,
            weights_hash=classifier.weights_hash(),
            head=str(head),
            input_shape=list(input_shape),
            preprocessing=classifier.preprocessing,
            class_names=classifier.class_names,
        ),
        tuple(HeadPath((module,)).head(classifier.model) for module in head.modules),
        classifier(noise(input_shape)).features.cpu(),
    )


def _compared(classifier: Classifier, images: Tensor, path: Path) -> tuple[float, float]:
    """Largest differences of features and logits between a file and the network.

    Raises:
        ModelError: if they are more than rounding, or the file cannot be run.
    """
    session = session_of(path, torch.device("cpu"), torch.get_num_threads())
    names = (FEATURES, LOGITS)
    largest = dict.fromkeys(names, 0.0)
    for few in (images, images[:1]):  # a batch of one is what a graph may be wrong about
        batch = classifier(few)
        ours = dict(zip(names, computed(session, few.cpu(), names), strict=True))
        for name, theirs in ((FEATURES, batch.features.cpu()), (LOGITS, batch.logits.cpu())):
            if wrong := differs(ours[name], theirs):
                raise ModelError(
                    f"The exported {name} of {len(few)} images differ from the network's {wrong}: "
                    "it computes something that the exporter gets wrong, and nothing was written."
                )
            difference = float((ours[name] - theirs).abs().max())
            largest[name] = max(largest[name], difference)
    return largest[FEATURES], largest[LOGITS]


def _input_shape(classifier: Classifier) -> tuple[int, ...]:
    """Of one image, as the classifier has seen them or its preprocessing makes them."""
    if classifier.input_shape is not None:
        return classifier.input_shape
    preprocessing = classifier.preprocessing
    size = None if preprocessing is None else preprocessing.crop or preprocessing.resize
    if preprocessing is None or size is None:
        raise InvalidInput(f"The size of the network's images is not known: {_HINT}.")
    if isinstance(size, int) and preprocessing.crop is None:
        raise InvalidInput(
            f"The shorter side of the network's images has {size} pixels, the longer any: {_HINT}."
        )
    height, width = size if isinstance(size, tuple) else (size, size)
    return len(preprocessing.mean), height, width


def _check_float32(dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        raise ModelError(
            f"The network computes in {dtype}, and the file would in float32: export model.float()."
        )


def _check_size(model: nn.Module, content: OnnxContent) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    size += sum(len(text) for text in content.metadata().values())
    if size > MAX_BYTES:
        raise ModelError(
            f"The network has {size / 1e9:.1f} GB of weights, and one ONNX file holds no more than "
            f"{MAX_BYTES / 1e9:.1f} GB: run the network itself."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
