"""Running the user's model: in eval mode, watched where asked, and given back as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neroli.errors import InvalidInput

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
BATCH_COUNTER = "num_batches_tracked"
"""Counted by batch norm in training, unused in eval mode, and missing from some weights files."""

Watcher = Callable[[Tensor | None, Tensor | None], None]
"""What is called with the first input and the output of a module, each time it has run."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and without gradients, then give every module its own mode back.

    Other threads that want the same model wait: mode and hooks are the model's, not the caller's.
    """
    with _LOCKS.setdefault(model, threading.RLock()):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:  # parents first: a child's own mode has the last word
                if module.training != training:
                    module.train(training)  # not the flag alone: some drop what they cached in eval
            for module, training in modes:
                module.training = training  # also where a module's own train() sets other modes


@contextmanager
def watched(model: nn.Module, watchers: Iterable[tuple[str, Watcher]]) -> Iterator[None]:
    """Evaluation mode, in which watchers see what some modules take and return.

    What a watcher keeps must be a copy, or something that no later module changes in place.

    Args:
        model: the network.
        watchers: each with the path of its module.
    """
    here = threading.get_ident()  # the user's own threads may run the model meanwhile
    with evaluation_mode(model), ExitStack() as hooks:
        for path, watcher in watchers:
            module = model.get_submodule(path)
            handle = module.register_forward_hook(_hook(watcher, here), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


class LastCalls(dict[str, tuple[Tensor, Tensor]]):
    """The first tensor that each watched module was last called with and what it returned.

    In the order of these calls.
    """

    def watch(self, paths: Iterable[str]) -> list[tuple[str, Watcher]]:
        """The watchers of some modules."""
        return [(path, self._watcher(path)) for path in paths]

    def _watcher(self, path: str) -> Watcher:
        def note(taken: Tensor | None, given: Tensor | None) -> None:
            if taken is not None and given is not None:
                self.pop(path, None)
                self[path] = (taken, given)

        return note


def unknown_module(model: nn.Module, path: str) -> str | None:
    """A sentence that says which modules there are, if there is none of this path."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if path in modules:
        return None
    near = [n for n in modules if n and path.split(".")[-1] in n] or list(modules)[-3:]
    others = ", ".join(repr(n) for n in near[:4])
    return f"The model has no module {path!r}; it has {others}, among others."


def run(model: nn.Module, images: Tensor) -> object:
    """What the model returns for the images.

    Raises:
        InvalidInput: if the model cannot take them, with its own reason.
    """
    try:
        return model(images)
    except (torch.OutOfMemoryError, InvalidInput):  # the latter of a watcher
        raise
    except Exception as error:  # whatever the user's model raises
        hint = " (a single image needs a batch dimension: images[None])" * (images.ndim == 3)
        raise InvalidInput(
            f"The model cannot take images of shape {list(images.shape)}{hint}: {error}"
        ) from error


def logits_of(output: object) -> Tensor:
    """The logits in what a model returns: a tensor, ``.logits``, or the key ``"logits"``.

    Raises:
        InvalidInput: if there is none, or it is not ``[N, C]`` of floating point.
    """
    logits = output
    if isinstance(output, dict):
        logits = output.get("logits")
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InvalidInput(
            f"The model returned a {type(output).__name__}; neroli needs a tensor of logits, "
            "or an output with `.logits`. Wrap the model in a module that returns its logits."
        )
    if logits.ndim != 2 or not logits.is_floating_point():
        raise InvalidInput(
            f"The model's output must be logits [N, C], got {logits.dtype} of shape "
            f"{list(logits.shape)}: neroli works with image classifiers."
        )
    return logits


def _hook(watcher: Watcher, thread: int) -> Callable[..., None]:
    def hook(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        if threading.get_ident() == thread:
            watcher(first_tensor((*inputs, *named.values())), first_tensor(output))

    return hook


def first_tensor(value: Any) -> Tensor | None:
    """The tensor that a value is, or the first in it: layers of transformers return tuples."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((part for part in value if isinstance(part, Tensor)), None)
    return None
