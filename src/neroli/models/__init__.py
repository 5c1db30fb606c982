"""Models by name, with weights from a local file; nothing is downloaded.

``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``, ``export:FILE``, ``onnx:FILE``, or
``package.module:function``.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from neroli.artefact import ModelSource
from neroli.classifier import Classifier
from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError, NeroliWarning
from neroli.execution import AS_IT_IS, Execution
from neroli.exported import load_program
from neroli.models import hf, onnx, own, timm, torchvision
from neroli.models.loaded import LoadedModel
from neroli.models.statement import read_statement
from neroli.models.torchvision import import_torchvision
from neroli.models.weights import load_weights, of_other_classes, read_weights

__all__ = [
    "LoadedModel",
    "anchored",
    "import_torchvision",
    "load_classifier",
    "load_model",
    "load_saved_model",
    "model_source",
    "read_weights",
    "to",
]

_PATHS = ("hf", "export", "onnx")
"""Kinds of models that are named by a path."""
_WHOLE = {"export": "An exported program", "onnx": "An ONNX file"}
"""Kinds of models that have their own weights."""


def load_classifier(
    spec: str,
    weights: Path | str | None = None,
    *,
    head: str | None = None,
    preprocessing: Preprocessing | None = None,
    device: str = "cpu",
    execution: Execution = AS_IT_IS,
) -> Classifier:
    """A classifier by name, with the class names and the preprocessing it states.

    Args:
        spec, weights: as ``load_model``.
        head: as ``Classifier``.
        preprocessing: instead of what the model states.
        device: where it runs.
        execution: how; as ``Classifier``.

    Raises:
        ModelError: if the model or the weights cannot be loaded, with the reason.
    """
    loaded = load_model(spec, weights)
    return Classifier(
        to(device, loaded.module),
        head,
        preprocessing=preprocessing or loaded.preprocessing,
        class_names=loaded.class_names,
        execution=execution,
    )


def load_model(
    spec: str, weights: Path | str | None = None, *, num_classes: int | None = None
) -> LoadedModel:
    """A model by name, with weights from a file, and what it or they say of it.

    Args:
        spec: ``timm:NAME``; ``torchvision:NAME`` or ``torchvision:NAME.WEIGHTS``, the published
            weights whose preprocessing is meant; ``hf:FOLDER``, a local folder of transformers;
            ``export:FILE``, a program saved by ``torch.export.save``; ``onnx:FILE``, what
            ``neroli export`` wrote; or ``package.module:function``, a function without arguments
            that returns the model, imported from the environment or the current folder.
        weights: a ``.safetensors`` file, or a ``.pt``/``.pth`` file read with ``weights_only``. Its
            keys must be the model's. A transformers folder, an exported program and an ONNX file
            have their own.
            What a file that ``neroli.training.train`` wrote states of itself goes before what the
            model does.
        num_classes: of a model that is to be trained: networks of timm and torchvision are made for
            so many, and where the weights are of others, the head stays untrained.

    Raises:
        ModelError: if the model or the weights cannot be loaded, with the reason.
    """
    kind, _, name = spec.partition(":")
    if not name or not kind or kind.startswith("."):
        raise ModelError(
            f"{spec!r} names no model: use timm:NAME, torchvision:NAME, hf:FOLDER, export:FILE, "
            "onnx:FILE or package.module:function."
        )
    if kind in _WHOLE:
        if weights is not None:
            raise ModelError(f"{_WHOLE[kind]} has its own weights: drop {str(weights)!r}.")
        return onnx.load(name) if kind == "onnx" else LoadedModel(load_program(name))
    state = None if weights is None else read_weights(weights)
    if kind in ("timm", "torchvision"):
        load = timm.load if kind == "timm" else torchvision.load
        loaded = load(name, state, num_classes)
        if state is None and num_classes is None:
            warnings.warn(
                f"{spec} was given no weights and is untrained: say where they are (--weights).",
                NeroliWarning,
                stacklevel=2,
            )
    elif kind == "hf":
        loaded = hf.load(name, state)
    else:
        loaded = own.load(kind, name)
    if state is None or weights is None:
        return loaded
    new = () if num_classes is None else of_other_classes(state, loaded.module, num_classes)
    untrained = {name: loaded.module.state_dict()[name] for name in new}
    load_weights(loaded.module, {**state, **untrained}, weights)
    loaded = replace(loaded, new_layers=tuple(new))
    if (stated := read_statement(weights)) is not None:
        loaded = replace(
            loaded, preprocessing=stated.preprocessing, class_names=list(stated.class_names)
        )
    return loaded


def model_source(spec: str, weights: Path | str | None, guard: Path | str) -> ModelSource:
    """A model's name and weights file as a guard saved in the folder ``guard`` notes them."""
    folder = Path(guard).resolve()
    relative = None if weights is None else os.path.relpath(Path(weights).resolve(), folder)
    kind, _, name = spec.partition(":")
    if kind in _PATHS:
        spec = f"{kind}:{os.path.relpath(Path(name).resolve(), folder)}"
    return ModelSource(model=spec, weights=relative)


def anchored(spec: str) -> str:
    """A model's name that means the same in any folder: one that is a path is made absolute."""
    kind, _, name = spec.partition(":")
    return f"{kind}:{Path(name).resolve()}" if kind in _PATHS else spec


def load_saved_model(
    source: ModelSource | None,
    guard: Path | str,
    spec: str | None = None,
    weights: Path | str | None = None,
) -> nn.Module:
    """The model that a saved guard notes, or the one named instead.

    Raises:
        ModelError: if neither says which, or as ``load_model``.
    """
    if spec is None and source is None:
        raise ModelError(
            f"The guard {str(guard)!r} does not say which model it is of: name it with --model."
        )
    whole = spec is not None and spec.partition(":")[0] in _WHOLE
    if weights is None and not whole and source is not None and source.weights is not None:
        weights = Path(os.path.normpath(Path(guard).resolve() / source.weights))
        if not weights.exists():
            raise ModelError(
                f"The model's weights are no longer at {str(weights)!r}: say where with --weights."
            )
    if spec is None and source is not None:
        kind, _, name = source.model.partition(":")
        spec = source.model
        if kind in _PATHS:
            spec = f"{kind}:{os.path.normpath(Path(guard).resolve() / name)}"
    return load_model(spec or "", weights).module


def to(device: str, model: nn.Module) -> nn.Module:
    """The model, moved to a device by name.

    Raises:
        ModelError: if there is no such device here.
    """
    try:
        if torch.device(device).type == "meta":
            raise ModelError("The device 'meta' computes nothing: choose cpu or cuda.")
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"Cannot run on device {device!r}: {reason}") from None
