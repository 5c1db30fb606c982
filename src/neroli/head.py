"""The linear head of a classifier, and how it is found: by checking numbers, not names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neroli.errors import HeadNotFound, InvalidInput

_TOLERANCE = 1e-4
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
BATCH_COUNTER = "num_batches_tracked"
"""Counted by batch norm in training, unused in eval mode, and missing from some weights files."""


class LinearHead:
    """The last layer of a classifier: ``logits = features @ weight.T + bias``.

    Args:
        weight: ``[C, D]``, one row a class.
        bias: ``[C]``; zeros when left out.

    Raises:
        InvalidInput: if the shapes do not fit together or a value is not finite.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = torch.as_tensor(weight).detach()
        if weight.ndim != 2 or 0 in weight.shape or not weight.is_floating_point():
            raise InvalidInput(
                f"The head's weight must be a floating-point tensor [C, D], "
                f"got {weight.dtype} of shape {list(weight.shape)}."
            )
        bias = weight.new_zeros(len(weight)) if bias is None else torch.as_tensor(bias).detach()
        if bias.shape != weight.shape[:1]:
            raise InvalidInput(
                f"The head's bias must have shape [{len(weight)}] like the rows of its weight, "
                f"got {list(bias.shape)}."
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise InvalidInput("The head's weight or bias holds NaN or infinity: check the model.")
        self.weight: Tensor = weight
        self.bias: Tensor = bias.to(weight)

    def __repr__(self) -> str:
        return f"LinearHead({self.num_features} features to {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        return self.weight.shape[1]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]`` of features ``[N, D]``, in the features' dtype and on their device."""
        head = self.like(features)
        return torch.nn.functional.linear(features, head.weight, head.bias)

    def like(self, tensor: Tensor) -> LinearHead:
        """This head in the tensor's dtype and on its device; itself if it is so already."""
        if self.weight.dtype == tensor.dtype and self.weight.device == tensor.device:
            return self
        return LinearHead(self.weight.to(tensor), self.bias.to(tensor))


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
            for module, training in modes:
                module.training = training


@contextmanager
def watched(
    model: nn.Module, modules: Mapping[str, nn.Module]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Evaluation mode, in which the last input and output of some modules are noted.

    Yields:
        the first tensor that each module was called with, and what it returned, in the order of
        their last calls.
    """
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            tensors = [v for v in (*inputs, *named.values()) if isinstance(v, Tensor)]
            if tensors and isinstance(output, Tensor):
                calls.pop(name, None)
                calls[name] = (tensors[0], output)

        return hook

    with evaluation_mode(model), ExitStack() as hooks:
        for name, module in modules.items():
            handle = module.register_forward_hook(note(name), with_kwargs=True)
            hooks.callback(handle.remove)
        yield calls


def run(model: nn.Module, images: Tensor) -> object:
    """What the model returns for the images.

    Raises:
        InvalidInput: if the model cannot take them, with its own reason.
    """
    try:
        return model(images)
    except torch.OutOfMemoryError:
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


def find_head(model: nn.Module, images: Tensor, name: str | None = None) -> str:
    """The name of the module that is the model's linear head.

    It is the last module called whose output equals the logits and whose input ``f`` satisfies
    ``weight f + bias = logits``. Linear layers, 1x1 convolutions on a 1x1 map and any other module
    with a two-dimensional ``weight`` are tried.

    Args:
        model: the classifier.
        images: a few images ``[N, ...]`` as the model takes them.
        name: look at this module alone. Its output may then differ from the model's (a softmax
            behind it), as long as both predict the same classes.

    Raises:
        HeadNotFound: if no module passes, with the reason for those that came close.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise HeadNotFound("A TorchScript model hides its layers: give the module it was made of.")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        with evaluation_mode(model):
            run(model, images)  # gives lazy layers their shapes
    if name is None:
        candidates = {n: m for n, m in model.named_modules() if _weight_and_bias(m) is not None}
    else:
        named_head(model, name)
        candidates = {name: model.get_submodule(name)}
    with watched(model, candidates) as calls:
        logits = logits_of(run(model, images))
    if not torch.isfinite(logits).all():
        raise HeadNotFound(
            "The model's logits are NaN or infinite on these images, so no head can be checked: "
            "look at the weights and at the images' values."
        )
    reasons = []
    for candidate, (features, output) in reversed(calls.items()):
        reason = _mismatch(candidates[candidate], features, output, logits, named=name is not None)
        if reason is None:
            return candidate
        reasons.append(f"{candidate!r} {reason}")
    tried = "; ".join(reasons[:3]) or "it calls no linear layer or 1x1 convolution as a module"
    raise HeadNotFound(
        f"No linear head found in this {type(model).__name__}: {tried}. "
        'Name the layer that yields the logits, Classifier(model, head="path.to.layer"), or let '
        "the model end in one nn.Linear that yields its output."
    )


def named_head(model: nn.Module, name: str) -> LinearHead:
    """The linear head that the module of this name computes, with a copy of its weights.

    Raises:
        HeadNotFound: if there is no such module, or it is not a linear layer.
        InvalidInput: if its weights are NaN or infinite.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        near = [n for n in modules if n and name.split(".")[-1] in n] or list(modules)[-3:]
        others = ", ".join(repr(n) for n in near[:4])
        raise HeadNotFound(f"The model has no module {name!r}; it has {others}, among others.")
    found = _weight_and_bias(modules[name])
    if found is None:
        raise HeadNotFound(
            f"Module {name!r} is a {type(modules[name]).__name__} without a [C, D] weight, so it "
            "cannot be a linear head; name the linear layer that yields the logits."
        )
    weight, bias = found
    return LinearHead(weight.detach().clone(), None if bias is None else bias.detach().clone())


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The module's own weight ``[C, D]`` and bias ``[C]``; None if it has none of that shape."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or is_lazy(weight) or not weight.is_floating_point():
        return None
    if weight.ndim == 4 and weight.shape[2:] == (1, 1) and getattr(module, "groups", 1) == 1:
        weight = weight.flatten(1)
    if weight.ndim != 2 or not (bias is None or isinstance(bias, Tensor)):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return weight, bias


def _mismatch(
    module: nn.Module, features: Tensor, output: Tensor, logits: Tensor, *, named: bool
) -> str | None:
    """Why a called module is not the head of these logits; None if it is."""
    found = _weight_and_bias(module)
    assert found is not None
    head = LinearHead(*found)
    if output.numel() != len(logits) * head.num_classes or len(output) != len(logits):
        return f"yields {list(output.shape)}, not one row of {head.num_classes} values an image"
    output = output.reshape(len(logits), -1)
    if features.numel() != len(logits) * head.num_features:
        return f"takes {list(features.shape)}, not one row of {head.num_features} features an image"
    if output.shape != logits.shape:
        return f"yields {output.shape[1]} values where the model yields {logits.shape[1]} logits"
    if named:
        if not torch.equal(output.argmax(1), logits.argmax(1)):
            return "predicts other classes than the model"
        logits = output
    if not _close(output, logits):
        if _close(output.softmax(1), logits) or _close(output.log_softmax(1), logits):
            return (
                "yields the logits, but the model returns their (log-)softmax: name it with head="
            )
        return "yields other values than the model returns"
    if not _close(head(features.reshape(len(logits), -1).to(head.weight)), logits):
        return "yields the logits, but not as weight @ input + bias (normalised or scaled?)"
    return None


def _close(left: Tensor, right: Tensor) -> bool:
    precision = max(_TOLERANCE, 16 * max(torch.finfo(t.dtype).eps for t in (left, right)))
    error = (left.double() - right.double()).abs().max()
    return bool(error <= precision * max(1.0, float(right.abs().max())))
