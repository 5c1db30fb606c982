"""What weights that neroli trained say of themselves, as JSON in their file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neroli.data.preprocessing import Preprocessing
from neroli.errors import ModelError
from neroli.files import atomic_path

SCHEMA_VERSION = 1
METADATA = "neroli"
"""The key under which it stands."""
StatedT = TypeVar("StatedT", bound=pydantic.BaseModel)


class Epoch(pydantic.BaseModel):
    """What one epoch of training came to.

    Attributes:
        epoch: its number, from 1.
        loss: mean cross-entropy over the training images, in nats.
        validation_accuracy: as a fraction; None where it was not measured.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    epoch: int
    loss: float
    validation_accuracy: float | None = None


class Statement(pydantic.BaseModel):
    """What a network was trained for and how well it does.

    Attributes:
        arch: the model's name.
        class_names: of its C classes, in order.
        preprocessing: how pictures become its input.
        key: hash of all that the training depended on.
        epoch: whose weights these are.
        validation_accuracy: of them, as a fraction.
        validation_images: which that was measured on.
        unreadable: training and validation images that were left out.
        history: all epochs.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: Literal["neroli weights"] = "neroli weights"
    schema_version: int = SCHEMA_VERSION
    arch: str
    class_names: list[str]
    preprocessing: Preprocessing
    key: str
    epoch: int
    validation_accuracy: float
    validation_images: int
    unreadable: int
    history: list[Epoch]


def read_statement(path: Path | str) -> Statement | None:
    """What a weights file says of itself; None if neroli did not train it.

    Raises:
        ModelError: if it says something that neroli cannot have written, or a later one has.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot read the weights {str(path)!r} ({error}).") from None
    if text is None:
        return None
    return validated(
        Statement,
        text,
        SCHEMA_VERSION,
        f"What the weights {str(path)!r} say of themselves",
        "train them again, or save their tensors alone to another file",
    )


def validated(kind: type[StatedT], text: str, newest: int, said: str, remedy: str) -> StatedT:
    """What a file says of itself, as an object.

    Args:
        kind: of statement, which has a ``schema_version``.
        text: JSON.
        newest: schema that this neroli reads.
        said: what it is, to begin a sentence with.
        remedy: what to do if it is damaged.

    Raises:
        ModelError: if it is damaged or of a newer schema.
    """
    try:
        content = json.loads(text)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > newest:
            raise ModelError(
                f"{said} has schema {version}, newer than the {newest} this neroli reads: upgrade "
                "neroli."
            )
        return kind.model_validate(content)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
        raise ModelError(f"{said} is damaged ({reason}): {remedy}.") from None


def write_weights(path: Path, state: Mapping[str, Tensor], statement: Statement) -> None:
    """Save a network's tensors with what they are, replacing a file that is there.

    Raises:
        ArtefactError: if it cannot be written.
    """
    with atomic_path(path) as temporary:
        save_file(dict(state), temporary, {METADATA: statement.model_dump_json()})
