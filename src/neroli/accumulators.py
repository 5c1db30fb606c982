"""What statistics have gathered, as named tensors: on disk, or on the way to another process.

A statistic's dataclass fields that are no arguments are what it gathers. Their tensors and arrays
are kept as they are; everything else (numbers, texts, and how lists and dicts of all that are
nested) is JSON, itself a tensor of bytes. No pickle: what is read can only be data.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from neroli.errors import ArtefactError
from neroli.statistics import Statistic

_LAYOUT = "layout"


def packed(statistics: Sequence[Statistic[Any]]) -> dict[str, Tensor]:
    """What several statistics have gathered so far, as tensors on the CPU by name.

    Raises:
        TypeError: if one gathers something that is neither tensors, arrays, numbers, texts nor
            lists, dicts and dataclasses of these.
    """
    tensors: dict[str, Tensor] = {}
    layout = [
        [
            type(statistic).__name__,
            {f.name: _flat(getattr(statistic, f.name), tensors) for f in _gathered(statistic)},
        ]
        for statistic in statistics
    ]
    tensors[_LAYOUT] = _bytes(json.dumps(layout).encode())
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    into: Sequence[Statistic[Any]],
    device: torch.device | str | None = None,
) -> None:
    """Put what ``packed`` gave into other statistics of the same requests, in place of theirs.

    Args:
        tensors: by name.
        into: as many as were packed, in that order.
        device: where to; as they are if None.

    Raises:
        ArtefactError: if the tensors are not of statistics of these kinds.
    """
    try:
        layout = json.loads(tensors[_LAYOUT].numpy().tobytes())
        kinds = [kind for kind, _ in layout]
        expected = [type(statistic).__name__ for statistic in into]
        if kinds != expected:
            raise ArtefactError(
                f"The statistics are {', '.join(kinds) or 'none'} where {', '.join(expected)} "
                "were asked for: they are of another fit."
            )
        for statistic, (_, values) in zip(into, layout, strict=True):
            hints = get_type_hints(type(statistic))
            for field in _gathered(statistic):
                value = _nested(values[field.name], tensors, hints[field.name], device)
                setattr(statistic, field.name, value)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtefactError(f"The statistics are damaged ({error}): gather them again.") from None


def merge(
    tensors: Mapping[str, Tensor],
    into: Sequence[Statistic[Any]],
    device: torch.device | str | None = None,
) -> None:
    """Merge what ``packed`` gave into statistics of the same requests.

    Args:
        tensors, into, device: as of ``unpack``.

    Raises:
        ArtefactError: as ``unpack``.
    """
    others = [copy.copy(statistic) for statistic in into]
    unpack(tensors, others, device)
    for statistic, other in zip(into, others, strict=True):
        statistic.merge(other)


def _gathered(statistic: Statistic[Any]) -> list[dataclasses.Field[Any]]:
    """The fields that are gathered, not part of the request."""
    if not dataclasses.is_dataclass(statistic):
        raise TypeError(f"A {type(statistic).__name__} is no dataclass: it cannot be written.")
    return [field for field in dataclasses.fields(statistic) if not field.init]


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON that names its tensors, which are put beside."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        # a copy, since files may not share memory
        return {"tensor": _named(value.detach().cpu().clone().contiguous(), tensors)}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return {"objects": value.ravel().tolist(), "shape": value.shape}
    if isinstance(value, np.ndarray):
        name = _named(_bytes(value.tobytes()), tensors)  # tensors have not all its dtypes
        return {"array": name, "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, list):
        return [_flat(item, tensors) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _flat(item, tensors) for key, item in value.items()}}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {"fields": {name: _flat(getattr(value, name), tensors) for name in names}}
    raise TypeError(f"A {type(value).__name__} cannot be gathered by a statistic.")


def _nested(
    value: Any, tensors: Mapping[str, Tensor], hint: Any, device: torch.device | str | None
) -> Any:
    """The value that became this JSON; ``hint``, the field's type, says of which dataclass."""
    if isinstance(value, list):
        return [_nested(item, tensors, hint, device) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        return tensor if device is None else tensor.to(device)
    if "objects" in value:
        objects = np.empty(len(value["objects"]), dtype=object)
        objects[:] = value["objects"]
        return objects.reshape(value["shape"])
    if "array" in value:
        array = np.frombuffer(bytearray(tensors[value["array"]].numpy()), dtype=value["dtype"])
        return array.reshape(value["shape"])
    if "dict" in value:
        return {k: _nested(v, tensors, hint, device) for k, v in value["dict"].items()}
    kind = next(kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind))
    hints = get_type_hints(kind)
    return kind(**{k: _nested(v, tensors, hints[k], device) for k, v in value["fields"].items()})  # type: ignore[operator]


def _named(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor
    return name


def _bytes(content: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if content
        else torch.empty(0, dtype=torch.uint8)
    )
