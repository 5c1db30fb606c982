"""The linear head of a classifier: its weights, and where in the network it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neroli.errors import HeadNotFound, InvalidInput
from neroli.running import unknown_module


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


@dataclass(frozen=True)
class HeadPath:
    """Where the head stands: the path of a module, or of several whose outputs are averaged.

    Averaged heads are one linear head too. ``"head|head_dist"`` reads the features of both side by
    side, f = [f1; f2] and W = [W1 | W2] / 2; heads that read the same features are written
    ``"head+head_dist"``, W = (W1 + W2) / 2. A batch norm that stands before a linear layer inside
    the named module is folded into W and b.
    """

    modules: tuple[str, ...]
    shared: bool = False

    @classmethod
    def parse(cls, text: str) -> HeadPath:
        """The path that ``str()`` gives.

        Raises:
            HeadNotFound: if it names a module twice.
        """
        shared = "+" in text
        modules = tuple(text.split("+" if shared else "|"))
        if len(set(modules)) < len(modules):
            raise HeadNotFound(f"The head {text!r} names a module twice: name each once.")
        return cls(modules, shared)

    def __str__(self) -> str:
        return ("+" if self.shared else "|").join(self.modules)

    def head(self, model: nn.Module) -> LinearHead:
        """The linear head that stands there, with a copy of its weights.

        Raises:
            HeadNotFound: if there is no such module, or it is not linear.
            InvalidInput: if its weights are NaN or infinite.
        """
        heads = [_linear_head(model, path) for path in self.modules]
        if len({head.num_classes for head in heads}) > 1:
            raise HeadNotFound(f"The heads {str(self)!r} do not yield equally many classes.")
        if self.shared and len({head.num_features for head in heads}) > 1:
            raise HeadNotFound(f"The heads {str(self)!r} do not read the same features.")
        weights = [head.weight for head in heads]
        weight = torch.stack(weights).mean(0) if self.shared else torch.cat(weights, 1) / len(heads)
        return LinearHead(weight, torch.stack([head.bias for head in heads]).mean(0))

    def read(self, calls: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Features ``[N, D]`` and logits ``[N, C]``, of what each module took and returned."""
        taken, given = zip(*(calls[path] for path in self.modules), strict=True)
        # shape[0] and not len(): while a network is exported it stands for any number
        rows = [tensor.reshape(tensor.shape[0], -1) for tensor in taken]
        logits = [tensor.reshape(tensor.shape[0], -1) for tensor in given]
        if len(rows) == 1:
            return rows[0], logits[0]
        return rows[0] if self.shared else torch.cat(rows, 1), torch.stack(logits).mean(0)


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
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


def folded(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a module that is a batch norm and a linear layer; None of others."""
    layers = [m for m in module.modules() if not any(m.children())]
    layers = [m for m in layers if not isinstance(m, nn.Dropout | nn.Identity)]
    if len(layers) != 2 or not isinstance(layers[0], nn.BatchNorm1d):
        return None
    norm, linear = layers[0], weight_and_bias(layers[1])
    mean, variance = norm.running_mean, norm.running_var
    if linear is None or mean is None or variance is None or len(mean) != linear[0].shape[1]:
        return None
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    weight, bias = linear
    offset = weight @ shift
    return weight * scale, offset if bias is None else offset + bias


def _linear_head(model: nn.Module, path: str) -> LinearHead:
    if unknown := unknown_module(model, path):
        raise HeadNotFound(unknown)
    module = model.get_submodule(path)
    found = weight_and_bias(module) or folded(module)
    if found is None:
        raise HeadNotFound(
            f"Module {path!r} is a {type(module).__name__} without a [C, D] weight, so it "
            "cannot be a linear head; name the linear layer that yields the logits."
        )
    weight, bias = found
    return LinearHead(weight.detach().clone(), None if bias is None else bias.detach().clone())
