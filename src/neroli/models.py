"""Models by name: from timm or from the user's own code, with weights from a local file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from neroli.artefact import ModelSource
from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError
from neroli.head import BATCH_COUNTER

_MISSING_OPERATOR = "torchvision::nms does not exist"
_torchvision_operators: Any = None


def load_model(spec: str, weights: Path | str | None = None) -> nn.Module:
    """A model by name, with weights from a file; nothing is downloaded.

    Args:
        spec: ``timm:NAME`` or ``package.module:factory``, a function without arguments that returns
            the model. The module is imported from the environment or the current folder.
        weights: a ``.safetensors`` file, or a ``.pt``/``.pth`` file read with ``weights_only``. Its
            keys must be the model's.

    Raises:
        ModelError: if the model or the weights cannot be loaded, with the reason.
    """
    kind, _, name = spec.partition(":")
    if not name or not kind or kind.startswith("."):
        raise ModelError(f"{spec!r} names no model: use timm:NAME or package.module:factory.")
    if weights is None:
        return _timm_model(name, None) if kind == "timm" else _own_model(kind, name)
    state = read_weights(weights)
    model = _timm_model(name, state) if kind == "timm" else _own_model(kind, name)
    _load_weights(model, state, weights)
    return model


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of a weights file, out of ``state_dict`` or ``model`` nesting.

    Raises:
        ModelError: if the file is missing, damaged, or needs unpickling.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"There is no weights file {str(path)!r}.") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise ModelError(f"Cannot read the weights {str(path)!r}: {error}") from None
    except Exception as error:  # torch wraps the unpickler's own errors
        raise ModelError(
            f"The weights {str(path)!r} hold more than tensors, which would run code on loading: "
            f"save model.state_dict() alone, best as .safetensors ({type(error).__name__})."
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"The weights {str(path)!r} are not a state dict of named tensors.")
    parallel = all(str(name).startswith("module.") for name in content)  # saved by DataParallel
    return {str(n).removeprefix("module." if parallel else ""): t for n, t in content.items()}


def model_source(spec: str, weights: Path | str | None, guard: Path | str) -> ModelSource:
    """A model's name and weights file as a guard saved in the folder ``guard`` notes them."""
    relative = None if weights is None else os.path.relpath(weights, guard)
    return ModelSource(model=spec, weights=relative)


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
    if weights is None and source is not None and source.weights is not None:
        weights = Path(os.path.normpath(Path(guard) / source.weights))
        if not weights.exists():
            raise ModelError(
                f"The model's weights are no longer at {str(weights)!r}: say where with --weights."
            )
    return load_model(spec or (source.model if source else ""), weights)


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


def own_preprocessing(model: nn.Module) -> Preprocessing | None:
    """The preprocessing a model states itself (timm's data configuration), if it does."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        return None
    import_torchvision()
    data = importlib.import_module("timm.data").resolve_model_data_config(model)
    height, width = data["input_size"][1:]
    share = data["crop_pct"]
    resize = (int(height / share), int(width / share))
    return Preprocessing(
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=resize[0] if height == width and data["crop_mode"] != "squash" else resize,
        crop=(height, width),
        interpolation=data["interpolation"],
    )


def own_class_names(model: nn.Module) -> list[str] | None:
    """The class names a model states itself, in ``model.class_names``, if it does."""
    names = getattr(model, "class_names", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def _timm_model(name: str, state: Mapping[str, Tensor] | None) -> nn.Module:
    import_torchvision()
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(
            f"timm:{name} needs timm: install neroli with its [timm] extra ({error})."
        ) from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ModelError(f"timm has no model {name!r}" + (f": {near[0]!r}?" if near else "."))
    try:
        model: nn.Module = timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise ModelError(f"timm cannot make {name!r}: {error}.") from None
    classes = None if state is None else _classes_of(model, state)
    if classes is not None:
        model = timm.create_model(name, pretrained=False, num_classes=classes)
    return model


def _classes_of(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the weights were trained for, by the bias of timm's classifier layer."""
    head = getattr(model, "get_classifier", lambda: None)()
    path = next((name for name, module in model.named_modules() if module is head), None)
    weight = state.get(f"{path}.weight")
    return None if weight is None else len(weight)


def _own_model(module: str, factory: str) -> nn.Module:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ModelError(
            f"There is no module {module!r} for the model {module}:{factory}: run in the folder "
            "that holds it, or install it."
        )
    try:
        make = getattr(_imported(module), factory, None)
        if make is None:
            raise ModelError(f"The module {module!r} has no {factory!r}.")
        model = make() if callable(make) and not isinstance(make, nn.Module) else make
    except ModelError:
        raise
    except Exception as error:  # the user's own code
        raise ModelError(
            f"The model {module}:{factory} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{module}:{factory} gave a {type(model).__name__}; it must return a torch.nn.Module."
        )
    return model


def _imported(module: str) -> ModuleType:
    """The user's module, also where it imports a torchvision that needs help."""
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
        import_torchvision()
        return importlib.import_module(module)


def _load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    own = model.state_dict()
    needed = {name for name in own if not name.endswith(BATCH_COUNTER)}
    missing, unknown = sorted(needed - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unknown:
        raise ModelError(
            f"The weights {str(path)!r} are not of this {type(model).__name__}: missing "
            f"{', '.join(missing[:3]) or 'nothing'}, unknown {', '.join(unknown[:3]) or 'nothing'}."
        )
    if shapes:
        name = min(shapes)
        raise ModelError(
            f"The weights {str(path)!r} are not of this {type(model).__name__}: {name!r} has shape "
            f"{list(state[name].shape)}, the model's {list(own[name].shape)}."
        )
    model.load_state_dict(dict(state), strict=False)  # all but batch counters is there


def import_torchvision() -> None:
    """Import torchvision, also beside a CPU build of torch, for which its operators are missing.

    Its wheel then fails on import because ``nms`` and ``qnms`` are not registered. Classification
    models need neither, so their schemas are declared, and the import is tried again; never where
    torchvision imports as it is.
    """
    global _torchvision_operators
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return  # the caller's own import explains what is missing
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision_operators = library
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
