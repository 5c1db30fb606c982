"""Networks run by ONNX Runtime: a file that ``neroli export`` wrote, in place of the network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from neroli.errors import InvalidInput, ModelError, first_line
from neroli.head import HeadPath, LinearHead
from neroli.models.loaded import LoadedModel
from neroli.models.onnx_file import computed, content_of, differs, noise, session_of
from neroli.stand_in import StandIn


class OnnxNetwork(StandIn):
    """The features from an ONNX file, and the logits from a linear head as the network had it.

    The head stands where it stood in the network, so that a guard finds it there. Sessions have as
    many threads as torch. Each is checked against features that are in the file, so that neither a
    file that was changed nor a runtime that computes something else goes unnoticed.

    Args:
        path: of the file.

    Raises:
        ModelError: if the file is missing, damaged or not of ``neroli export``, or what it computes
            is not what the network did.
    """

    runtime = "ONNX Runtime"

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self._path = Path(path).absolute()
        self._lock = threading.Lock()
        here = torch.device("cpu"), torch.get_num_threads()
        session = session_of(self._path, *here)
        self.content = content_of(session, self._path)
        self._check(session, here[0])
        self._session: tuple[tuple[torch.device, int], Any] | None = (here, session)
        self.weights_hash = self.content.statement.weights_hash
        self._head = HeadPath.parse(self.content.statement.head)
        for module, head in zip(self._head.modules, self.content.heads, strict=True):
            self._put(module, _linear(head))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, C]`` of images ``[N, ...]``."""
        expected = self.content.statement.input_shape
        if list(images.shape[1:]) != expected:
            raise InvalidInput(
                f"The network was exported for images of shape {expected}, these have "
                f"{list(images.shape[1:])}: prepare them alike, or export it for these."
            )
        (features,) = computed(self._session_on(images.device), images)
        modules = [self.get_submodule(path) for path in self._head.modules]
        widths = [head.num_features for head in self.content.heads]
        taken = (
            [features] * len(widths) if self._head.shared else torch.split(features, widths, dim=1)
        )
        given = [module(part) for module, part in zip(modules, taken, strict=True)]
        return given[0] if len(given) == 1 else torch.stack(given).mean(0)

    def _session_on(self, device: torch.device) -> Any:
        """The session for a device and as many threads as torch has now."""
        key = device, torch.get_num_threads()
        with self._lock:
            if self._session is None or self._session[0] != key:
                session = session_of(self._path, *key)
                self._check(session, device)
                self._session = key, session
            return self._session[1]

    def _check(self, session: Any, device: torch.device) -> None:
        """Raise ModelError unless it computes the features that the network did."""
        images = noise(self.content.statement.input_shape).to(device)
        try:
            (ours,) = computed(session, images)
        except Exception as error:  # what the runtime says of a graph it cannot run
            raise ModelError(
                f"ONNX Runtime cannot run {str(self._path)!r}: {first_line(error)}"
            ) from None
        if wrong := differs(ours.cpu(), self.content.features):
            raise ModelError(
                f"The features of {str(self._path)!r} differ from those of the network it was "
                f"exported from {wrong}: the file was quantised or changed, which makes another "
                "network of it, or this ONNX Runtime computes it wrongly. Export the network again."
            )

    def _put(self, path: str, module: nn.Module) -> None:
        *folders, name = path.split(".")
        parent: nn.Module = self
        for folder in folders:
            if folder not in dict(parent.named_children()):
                parent.add_module(folder, nn.Module())
            parent = parent.get_submodule(folder)
        parent.add_module(name, module)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move it to another device, if the runtime can compute there; its precision stays."""
        weight = next(self.parameters()).detach()
        moved = fn(weight[:0])
        if moved.dtype != weight.dtype:
            raise ModelError(f"{self.runtime} computes {self._path.name!r} in float32 alone.")
        if moved.device != weight.device:
            self._session_on(moved.device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_session", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._session, self._lock = None, threading.Lock()


def load(path: Path | str) -> LoadedModel:
    """The network in a file that ``neroli export`` wrote, with what it says of itself.

    Raises:
        ModelError: as ``OnnxNetwork``.
    """
    network = OnnxNetwork(path)
    statement = network.content.statement
    return LoadedModel(network, statement.preprocessing, statement.class_names)


def _linear(head: LinearHead) -> nn.Linear:
    linear = nn.Linear(head.num_features, head.num_classes, device="meta")
    linear.weight = nn.Parameter(head.weight, requires_grad=False)
    linear.bias = nn.Parameter(head.bias, requires_grad=False)
    return linear
