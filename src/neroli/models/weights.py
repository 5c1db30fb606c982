"""Weights files: named tensors, read without running code in them, and put into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from neroli.errors import ModelError
from neroli.running import BATCH_COUNTER


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of a weights file, out of ``state_dict`` or ``model`` nesting.

    Raises:
        ModelError: if the file is missing, damaged, or needs unpickling.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return _unwrapped(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"There is no weights file {str(path)!r}.") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = str(error) or type(error).__name__
        raise ModelError(
            f"Cannot read the weights {str(path)!r} ({reason}): it should be a .safetensors file, "
            "or a state dict saved by torch.save."
        ) from None
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
    return _unwrapped(content)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Put weights into a model; batch counters may be missing.

    Raises:
        ModelError: naming keys that are missing or unknown, or one of another shape.
    """
    own = model.state_dict()
    needed = {name for name in own if not name.endswith(BATCH_COUNTER)}
    missing, unknown = sorted(needed - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unknown:
        raise ModelError(
            f"The weights {str(path)!r} are not of this {type(model).__name__}: missing "
            f"{_some(missing)}, unknown {_some(unknown)}."
        )
    odd = [name for name in state if state[name].layout != torch.strided or state[name].is_meta]
    odd += [name for name in own if name in state and _kind(own[name]) != _kind(state[name])]
    if odd:
        raise ModelError(
            f"The weights {str(path)!r} hold {odd[0]!r} as {state[odd[0]].dtype} "
            f"({state[odd[0]].layout}), which the model cannot take: save plain dense tensors."
        )
    if shapes:
        name = min(shapes)
        raise ModelError(
            f"The weights {str(path)!r} are not of this {type(model).__name__}: {name!r} has shape "
            f"{list(state[name].shape)}, the model's {list(own[name].shape)}."
        )
    model.load_state_dict(dict(state), strict=False)  # all but batch counters is there


def classes_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """How many classes weights were trained for: the rows of the model's last linear layer in them.

    Args:
        state: the weights.
        model: the same network, for any number of classes.
    """
    for name, weight in reversed(model.state_dict().items()):
        is_linear = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))
        if name.endswith("weight") and is_linear:
            return len(state[name]) if name in state and state[name].ndim else None
    return None


def of_other_classes(state: Mapping[str, Tensor], model: nn.Module, num_classes: int) -> list[str]:
    """The tensors of a model's head for which weights of another number of classes have no values.

    They differ in their rows alone, of which the model has one a class.

    Args:
        state: the weights.
        model: the same network, for ``num_classes`` classes.
        num_classes: C.
    """
    return [
        name
        for name, own in model.state_dict().items()
        if name in state
        and own.ndim > 0
        and len(own) == num_classes
        and own.shape != state[name].shape
        and own.shape[1:] == state[name].shape[1:]
    ]


def _unwrapped(state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that every name has if the model was saved inside a DataParallel."""
    parallel = all(str(name).startswith("module.") for name in state)
    return {str(n).removeprefix("module." if parallel else ""): t for n, t in state.items()}


def _kind(tensor: Tensor) -> str:
    """Real numbers, complex ones, or integers; quantised tensors apart."""
    if tensor.is_quantized or tensor.is_complex():
        return str(tensor.dtype)
    return "real" if tensor.is_floating_point() else "integer"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more or "nothing"
