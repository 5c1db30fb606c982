"""Checkpoints: where a training stands, kept in ``OUT.partial/`` until it is done.

A checkpoint is one safetensors file, replaced at once: the network, Adam's moments, the best
weights so far, and a record in its metadata. Draws of an epoch depend on the seed and its number
alone, so no state of a random generator is needed.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neroli.errors import ArtefactError
from neroli.files import atomic_path, is_free, locked
from neroli.models.statement import Epoch

SECONDS = 30.0
"""Epochs that are over sooner after the last checkpoint have none of their own."""
_FILE = "checkpoint.safetensors"
_NETWORK, _MOMENTS, _BEST = "network.", "adam.", "best."


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    key: str
    history: list[Epoch]


@dataclass(eq=False)
class Standing:
    """Where a training stands: the network and the optimiser, and what the epochs so far came to.

    Attributes:
        network: as the last epoch left it.
        optimiser: of its parameters.
        history: the epochs so far.
        best: tensors of the best validated epoch, on the CPU.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch) -> None:
        """Note an epoch, and keep the network if it is the best: the earliest of equal ones."""
        self.history.append(epoch)
        if self.best_epoch is epoch:
            self.best = copied(self.network.state_dict())

    @property
    def best_epoch(self) -> Epoch | None:
        """The first epoch of the highest validation accuracy; None if none was validated."""
        validated = [epoch for epoch in self.history if epoch.validation_accuracy is not None]
        return max(validated, key=lambda epoch: epoch.validation_accuracy or 0.0, default=None)


class Checkpoints:
    """The folder beside the weights where a training of some key keeps its checkpoint.

    Args:
        out: the weights file to be.
        key: hash of all that the training depends on; the checkpoint of another is dropped.

    Raises:
        ArtefactError: if the folder cannot be written to, or holds other files.
    """

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out.with_name(f"{out.name}.partial")
        self._path = self._folder / _FILE
        self._key = key
        self._saved = time.monotonic()
        self._lock = ExitStack()

    def __enter__(self) -> Checkpoints:
        if not is_free(self._folder, _FILE, ""):
            raise ArtefactError(
                f"{str(self._folder)!r}, where an unfinished training is kept, holds other files: "
                "move them away or choose another name for the weights."
            )
        self._lock.enter_context(locked(self._folder, "checkpoint"))
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def restore(self, standing: Standing) -> bool:
        """Bring a training to where its checkpoint is; False if it has no whole one."""
        try:
            with safe_open(self._path, "pt") as file:
                record = _Record.model_validate_json((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return False
        if record.key != self._key:
            return False
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, _MOMENTS).items():
            row, _, kind = name.partition(".")
            moments.setdefault(int(row), {})[kind] = tensor
        standing.network.load_state_dict(_part(tensors, _NETWORK))
        groups = standing.optimiser.state_dict()["param_groups"]
        standing.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        standing.history = record.history
        standing.best = _part(tensors, _BEST)
        return True

    def save(self, standing: Standing) -> None:
        """Replace the checkpoint, unless the last one is young.

        Raises:
            ArtefactError: if it cannot be written.
        """
        if time.monotonic() - self._saved < SECONDS:
            return
        moments: dict[int, dict[str, Any]] = standing.optimiser.state_dict()["state"]
        tensors = {f"{_NETWORK}{n}": t for n, t in standing.network.state_dict().items()}
        tensors |= {f"{_MOMENTS}{i}.{n}": t for i, row in moments.items() for n, t in row.items()}
        tensors |= {f"{_BEST}{n}": t for n, t in standing.best.items()}
        record = _Record(key=self._key, history=standing.history)
        with atomic_path(self._path) as temporary:
            save_file(copied(tensors), temporary, {"training": record.model_dump_json()})
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Drop the folder: the training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as a safetensors file needs them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
