"""Networks run by ``torch.compile``, with what is watched in them as part of what is compiled.

Hooks and compiled networks get on badly: a hook that comes after compiling does not fire, and one
that is taken away goes on. So the user's network is neither compiled nor hooked, but a copy of its
modules that shares its weights: another for every set of watched layers, whole or not at all.
"""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from neroli.errors import InvalidInput, first_line
from neroli.head import HeadPath
from neroli.running import Watcher, evaluation_mode, first_tensor
from neroli.taps import Tap, watchers_of

Calls = dict[str, tuple[Tensor, Tensor]]
"""What modules took and gave, by path."""

BACKEND = "inductor"
_NUMBERS = itertools.count()


class CompiledNetwork:
    """A network as ``torch.compile`` makes it, once for each set of watched layers.

    One compilation serves batches of 16 images and more, another smaller ones: torch convolves
    these in another way. Weights that change in place are those it uses.

    Args:
        model: the user's, which is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights = _tensors(model)
        self._lock = threading.Lock()
        self._made: dict[object, Callable[[Tensor], tuple[Calls, dict[str, Tensor]]]] = {}

    def is_of(self, model: nn.Module) -> bool:
        """Whether it still shares all weights of this network."""
        now = _tensors(model)
        return (
            model is self._model
            and len(now) == len(self._weights)
            and all(one is other for one, other in zip(now, self._weights, strict=True))
        )

    def __call__(
        self, images: Tensor, head: HeadPath, taps: Mapping[str, Tap]
    ) -> tuple[Calls, dict[str, Tensor]]:
        """What the head's modules took and gave, and what taps pooled, for images ``[N, ...]``.

        Raises:
            InvalidInput: if the network cannot be compiled as a whole, with the reason.
        """
        check_compiler(images.device)
        count = len(images)
        if count == 1:  # which would be compiled for itself
            images = torch.cat([images, images])
        torch._dynamo.maybe_mark_dynamic(images, 0)
        key = (head, tuple(taps.items()), images.shape[1:])
        with self._lock, torch.no_grad():
            try:
                if key not in self._made:
                    self._made[key] = _compiled(self._model, head, taps, images)
                calls, tapped = self._made[key](images)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever torch.compile meets in the user's model
                raise InvalidInput(
                    f"torch.compile cannot take this {type(self._model).__name__} as a whole "
                    f"({first_line(error)}): run it without compile."
                ) from error
        return (
            {path: (taken[:count], given[:count]) for path, (taken, given) in calls.items()},
            {name: value[:count] for name, value in tapped.items()},
        )


def _compiled(
    model: nn.Module, head: HeadPath, taps: Mapping[str, Tap], images: Tensor
) -> Callable[[Tensor], tuple[Calls, dict[str, Tensor]]]:
    with evaluation_mode(model):  # and without the hooks of others, who wait
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})
    calls: Calls = {}
    tapped: dict[str, Tensor] = {}

    def noting(path: str) -> Watcher:
        def note(taken: Tensor | None, given: Tensor | None) -> None:
            if taken is not None and given is not None:
                calls[path] = (taken, given)

        return note

    watchers = [(path, noting(path)) for path in head.modules]
    for path, watcher in (*watchers, *watchers_of(taps, images, tapped)):
        twin.get_submodule(path).register_forward_hook(_hook(watcher), with_kwargs=True)

    def forward(images: Tensor) -> tuple[Calls, dict[str, Tensor]]:
        twin(images)
        return dict(calls), dict(tapped)

    # What is compiled is kept by the code object, and hooks are not looked at when it is found
    # again: another code object for each.
    code = forward.__code__.replace(co_name=f"forward_{next(_NUMBERS)}")
    own = FunctionType(code, forward.__globals__, closure=forward.__closure__)
    made = torch.compile(own, fullgraph=True, backend=BACKEND)

    def run(images: Tensor) -> tuple[Calls, dict[str, Tensor]]:
        found: tuple[Calls, dict[str, Tensor]] = made(images)
        calls.clear()
        tapped.clear()
        return found

    return run


def _hook(watcher: Watcher) -> Callable[..., None]:
    def hook(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        watcher(first_tensor((*inputs, *named.values())), first_tensor(output))

    return hook


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def check_compiler(device: torch.device) -> None:
    """Raise InvalidInput if compiling for the CPU lacks what it needs."""
    wanted = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if device.type == "cpu" and not any(name and shutil.which(name) for name in wanted):
        raise InvalidInput(
            "Compiling a network for the CPU needs a C++ compiler and there is none: install g++ "
            "or clang++, or run without compile."
        )
