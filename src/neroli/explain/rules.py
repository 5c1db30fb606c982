"""Layer-wise relevance propagation from the features down to the pixels, on the autograd graph.

The rules are those of ``autolrp``, which reads them off the graph that a run of the network leaves
behind, so that no network has to be rewritten for them. Where it would pass on a plain gradient
instead, it is stopped here: there is no heat map of two methods mixed.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import autolrp
import torch
from autolrp import INSTALLERS, REWRITES, LRPConfig, LRPTensor, graph_lrp, merge
from autolrp.backward.graph import bfs_order, parents, reaches_input_map
from autolrp.forward.intercept import HAS_PARAMETER
from autolrp.nodes import canonical
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from neroli.discovery import close
from neroli.errors import first_line
from neroli.head import HeadPath
from neroli.running import LastCalls, run, watched

Rules = Literal["composite", "attention"]

_POOLS = {f"adaptive_avg_pool{dims}d": dims for dims in (1, 2, 3)}
_SUMMED = re.compile(r"(Sum|Mean)Backward\d")
_ADDED = re.compile(r"^(Add|Sub)Backward\d")
"""Operators of torch, by the digit in their name; autolrp's own, which have rules, have none."""


class NoRules(Exception):
    """Relevance cannot be propagated by rules; the message is a clause that says why."""


def by_rules(
    model: nn.Module,
    head: HeadPath,
    images: Tensor,
    features: Tensor,
    start: Tensor,
    rules: Literal["auto"] | Rules,
) -> tuple[Tensor, Rules]:
    """Relevance of the pixels, ``[N, channels, H, W]``, and the rules it was propagated by.

    Args:
        model: the network, in float32 or float64.
        head: where its head stands.
        images: what the network takes, ``[N, channels, H, W]``.
        features: ``[N, D]`` of these images, as a plain run computes them.
        start: ``[N, D]`` relevance of the features.
        rules: which; ``"auto"`` decides by whether the network has attention.

    Raises:
        NoRules: if there is no rule for a step of the network, or the result cannot be trusted.
    """
    leaf = autolrp.tensor(images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            used, steps = _run(model, head, leaf, features, start, rules)
        except (NoRules, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of any layer of any model, and of autolrp
            raise NoRules(f"the propagation failed ({first_line(error)[:200]})") from error
    _check_warnings(caught, steps)
    if leaf.relevance is None:
        raise NoRules("no relevance arrived at the pixels")
    relevance = leaf.relevance.as_subclass(Tensor).detach()
    if not torch.isfinite(relevance).all():
        raise NoRules("the relevance of some pixels was not finite")
    return relevance, used


def _run(
    model: nn.Module,
    head: HeadPath,
    leaf: LRPTensor,
    features: Tensor,
    start: Tensor,
    rules: Literal["auto"] | Rules,
) -> tuple[Rules, set[str]]:
    calls = LastCalls()
    with watched(model, calls.watch(head.modules)), torch.enable_grad(), _Replacing():
        run(model, leaf)
        computed = head.read(calls)[0]
    # autolrp turns in-place operations into others, which is lost on a model that then goes on
    # with the tensor it believes changed; one with random parts cannot be explained either
    if not close(computed.detach().as_subclass(Tensor).to(features), features):
        raise NoRules("the network computes other features when it is traced")
    strategy = merge(INSTALLERS, _INSTALLERS)
    with torch.enable_grad():  # which autolrp's own measurements on the graph need, too
        total = NeroliStart.apply(computed, start.to(computed.dtype))  # type: ignore[no-untyped-call]
        used, steps = _checked_rules(list(bfs_order([total.grad_fn])), rules)
        config = LRPConfig.attnlrp() if used == "attention" else _composite()
        graph_lrp(total, config, strategy=strategy)
    return used, steps


def _checked_rules(nodes: list[Any], rules: Literal["auto"] | Rules) -> tuple[Rules, set[str]]:
    """The rules to use, after a look at the nodes where autolrp is silent without a rule.

    And the names of all nodes between features and pixels.
    """
    from_pixels = reaches_input_map(nodes)
    kinds, steps = set(), set()
    for node in (node for node in nodes if from_pixels[id(node)]):
        operands = [p for p in parents(node, skip_aliases=False) if p is not None]
        both = sum(from_pixels[id(operand)] for operand in operands) > 1
        if _SUMMED.search(node.name()) or (both and _ADDED.search(node.name())):
            raise NoRules(f"there is no rule for its {node.name()}")
        kinds.add((canonical(node.name()), both))
        steps.add(node.name().split("::")[-1])
    if rules != "auto":
        return rules, steps
    # tokens multiplied with weights that tokens gave: some gates have a softmax too
    attention = ("BmmBackward", True) in kinds and ("SoftmaxBackward", False) in kinds
    return "attention" if attention else "composite", steps


def _check_warnings(caught: Iterable[warnings.WarningMessage], steps: set[str]) -> None:
    """Raise NoRules where a warning says that a plain gradient was passed on; repeat others'.

    Nodes that no pixel leads to, such as of a table of positions, need no rule.
    """
    for warning in caught:
        text = str(warning.message)
        if text.startswith("autoLRP:"):
            found = re.match(
                r"autoLRP: (?:no installer matched '(?:.*::)?(\w+)'|(\w+) matched)", text
            )
            step = (found[1] or found[2]) if found else f"operations ({text})"
            if found is None or step in steps:
                raise NoRules(f"there is no rule for its {step}")
        elif "for LRP" not in text:  # of operations that it does not run in place
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _composite() -> LRPConfig:
    preset = LRPConfig.composite()
    return LRPConfig({**preset.rule, "ConvolutionBackward": _positive}, eps=preset.eps)


class _Replacing(TorchFunctionMode):
    """Calls some operators on the traced images by other names, under which they have rules."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, LRPTensor) for value in (*args, *kwargs.values())):
            func = _public(func) if isinstance(func, OpOverload) else func
            name = getattr(func, "__name__", "")
            if name in _POOLS:
                size = args[1] if len(args) > 1 else kwargs["output_size"]
                if all(side == 1 for side in (size if isinstance(size, tuple | list) else [size])):
                    # torch makes it a mean too, out of autolrp's sight
                    return args[0].mean(tuple(range(-_POOLS[name], 0)), keepdim=True)
            if name == "hardsigmoid":  # autolrp differentiates twice, and torch cannot here
                return torch.clamp(args[0] + 3, 0, 6) / 6
        return func(*args, **kwargs)


def _public(operator: OpOverload) -> Any:
    """The function of torch that an operator of an exported program was made of.

    autolrp knows the functions, by name, and not the operators; those it need not know are kept.
    """
    name = operator._schema.name.split("::")[1].removesuffix("_")
    if name in REWRITES or name in HAS_PARAMETER or name in _POOLS:
        return getattr(torch, name, None) or getattr(F, name, operator)
    return operator


class NeroliStart(torch.autograd.Function):
    """A node whose gradient at the features is the relevance they start with."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, relevance: Tensor) -> Tensor:
        ctx.save_for_backward(relevance)
        return features.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (relevance,) = ctx.saved_tensors
        return relevance * gradients[0], None


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _positive(
    x: Tensor,
    weight: Tensor,
    relevance: Tensor,
    eps: float,
    forward: Callable[[Tensor, Tensor], Tensor],
    to_input: Callable[[Tensor, Tensor], Tensor],
    to_weight: Callable[[Tensor, Tensor], Tensor],
    *,
    attribute: str = "lhs",
) -> tuple[Tensor, None]:
    """The z+ rule, and for an output that has no positive contribution, the negative ones.

    Of such outputs a positive bias speaks; in depthwise convolutions they are many, and z+ alone
    would lose what relevance they have: nearly all of it in a MobileNetV2.
    """

    # what one sign of the input contributes with one of the weights; after a ReLU, half is nothing
    parts = [x.clamp(min=0)] + ([x.clamp(max=0)] if (x < 0).any() else [])
    rising, falling = weight.clamp(min=0), weight.clamp(max=0)

    def contributions(first: Tensor, second: Tensor) -> Tensor:
        return _sum(forward(part, w) for part, w in zip(parts, (first, second), strict=False))

    def shared(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        return _sum(
            part * to_input(w, share) for part, w in zip(parts, (first, second), strict=False)
        )

    positive = contributions(rising, falling)
    alone = (positive <= eps) & (relevance != 0)
    result = shared(rising, falling, relevance.masked_fill(alone, 0) / (positive + eps))
    if alone.any():
        negative = contributions(falling, rising)
        result = result + shared(falling, rising, relevance * alone / (negative - eps))
    return result, None


def _as_given(node: Any, config: LRPConfig) -> None:
    """Keep what the node's own backward yields."""


def _average_pool(node: Any, config: LRPConfig) -> Any:
    """Share the relevance of a mean over a window among its pixels by their magnitude.

    As autolrp does for other means, and zennit for all; autolrp would share it equally here.
    """
    values = node._saved_self.detach().as_subclass(Tensor).abs()

    def pooled(x: Tensor, shape: torch.Size) -> Tensor:
        if "Adaptive" in node.name():
            return F.adaptive_avg_pool2d(x, (shape[-2], shape[-1]))
        kernel, stride, padding = (
            list(getattr(node, f"_saved_{name}")) for name in ("kernel_size", "stride", "padding")
        )
        return F.avg_pool2d(x, kernel, stride or kernel, padding, node._saved_ceil_mode)

    def hook(given: tuple[Tensor | None, ...], taken: tuple[Tensor, ...]) -> tuple[Any, ...]:
        with torch.enable_grad():
            leaf = values.clone().requires_grad_()
            mean = pooled(leaf, taken[0].shape)
            share = taken[0].as_subclass(Tensor) / (mean.detach() + config.eps)
            (gradient,) = torch.autograd.grad(mean, leaf, share)
        return (values * gradient, *given[1:])

    return node.register_hook(hook)


class _WithoutBias:
    """A node of a convolution, as it looks to autolrp without a bias."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.next_functions = (*node.next_functions[:2], (None, 0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def _convolution(node: Any, config: LRPConfig) -> Any:
    """The rule of autolrp for convolutions; under z+ the bias takes no relevance.

    So it is with the biases of batch norms, which are passed over, and a network with its batch
    norms folded into the convolutions is explained as it was before.
    """
    plain = config.rule["ConvolutionBackward"] in (_positive, "zplus")
    return INSTALLERS["ConvolutionBackward"](_WithoutBias(node) if plain else node, config)


_INSTALLERS = {
    "ConvolutionBackward": _convolution,
    "NeroliStartBackward": _as_given,
    "AvgPool2DBackward": _average_pool,
    "AdaptiveAvgPool2DBackward": _average_pool,
}
