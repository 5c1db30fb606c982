"""Finding the linear head of a classifier by checking numbers, not names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neroli.errors import HeadNotFound
from neroli.head import HeadPath, LinearHead, folded, weight_and_bias
from neroli.running import LastCalls, evaluation_mode, logits_of, run, watched

_TOLERANCE = 1e-4
_MOST_AVERAGED = 3
"""Heads whose average is tried."""
_LAST_CALLS = 8
"""Calls of the right shape among which averaged heads are looked for."""


def find_head(model: nn.Module, images: Tensor, name: str | None = None) -> HeadPath:
    """Where the model's linear head stands.

    It is the last module called whose output equals the logits and whose input ``f`` satisfies
    ``weight f + bias = logits``; or else a few whose average does (distilled DeiT, CrossViT,
    LeViT). Linear layers, 1x1 convolutions on a 1x1 map and any other module with a two-dimensional
    ``weight`` are tried.

    Args:
        model: the classifier.
        images: a few images ``[N, ...]`` as the model takes them.
        name: look here alone (see ``HeadPath``). Its output may then differ from the model's (a
            softmax behind it), as long as both predict the same classes.

    Raises:
        HeadNotFound: if nothing passes, with the reason for the modules that came close.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise HeadNotFound("A TorchScript model hides its layers: give the module it was made of.")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        with evaluation_mode(model):
            run(model, images)  # gives lazy layers their shapes
    if name is None:
        modules = {n: m for n, m in model.named_modules() if _may_be_linear(m) and _is_path(n)}
    else:
        HeadPath.parse(name).head(model)
        modules = {path: model.get_submodule(path) for path in HeadPath.parse(name).modules}
    calls = LastCalls()
    with watched(model, calls.watch(modules)):
        logits = logits_of(run(model, images))
    if not torch.isfinite(logits).all():
        raise HeadNotFound(
            "The model's logits are NaN or infinite on these images, so no head can be checked: "
            "look at the weights and at the images' values."
        )
    if name is not None:
        return _checked(HeadPath.parse(name), model, calls, logits)
    single = {path: call for path, call in calls.items() if weight_and_bias(modules[path])}
    near: list[str] = []
    far: list[str] = []
    for path, (features, output) in reversed(single.items()):
        reason = _mismatch(modules[path], features, output, logits)
        if reason is None:
            return HeadPath((path,))
        (near if output.shape == logits.shape else far).append(f"{path!r} {reason}")
    for average in _averages(calls, logits):
        if _is_linear(average, model, calls, logits):
            return average
    tried = (
        "; ".join([*near, *far][:3]) or "it calls no linear layer or 1x1 convolution as a module"
    )
    raise HeadNotFound(
        f"No linear head found in this {type(model).__name__}: {tried}. "
        'Name the layer that yields the logits, Classifier(model, head="path.to.layer"), or let '
        "the model end in one nn.Linear that yields its output."
    )


def _is_path(name: str) -> bool:
    return not set(name) & set("|+")  # which stand between the paths of averaged heads


def _may_be_linear(module: nn.Module) -> bool:
    return weight_and_bias(module) is not None or folded(module) is not None


def _averages(calls: Mapping[str, tuple[Tensor, Tensor]], logits: Tensor) -> Iterator[HeadPath]:
    """Heads whose averaged outputs are the logits; first those that read the same features."""
    fitting = {
        path: (features, output.reshape(logits.shape))
        for path, (features, output) in calls.items()
        if len(output) == len(logits) and output.numel() == logits.numel()
    }
    last = list(fitting)[-_LAST_CALLS:]
    found = []
    for count in range(2, _MOST_AVERAGED + 1):
        for paths in combinations(last, count):
            features, outputs = zip(*(fitting[path] for path in paths), strict=True)
            if close(torch.stack(outputs).mean(0), logits):
                shared = all(torch.equal(features[0], other) for other in features[1:])
                found.append(HeadPath(paths, shared))
    yield from sorted(found, key=lambda path: not path.shared)


def _checked(
    path: HeadPath, model: nn.Module, calls: Mapping[str, tuple[Tensor, Tensor]], logits: Tensor
) -> HeadPath:
    """The named head, if it is linear and predicts the classes that the model does."""
    absent = [module for module in path.modules if module not in calls]
    if absent:
        raise HeadNotFound(f"The model does not call {absent[0]!r} on these images.")
    if len(path.modules) == 1:
        module = model.get_submodule(path.modules[0])
        reason = _mismatch(module, *calls[path.modules[0]], logits, named=True)
    else:
        output = path.read(calls)[1]
        reason = None
        if output.shape != logits.shape or not torch.equal(output.argmax(1), logits.argmax(1)):
            reason = "predicts other classes than the model"
        elif not _is_linear(path, model, calls, output):
            reason = "is not linear in what it reads"
    if reason is not None:
        raise HeadNotFound(f"The head {str(path)!r} {reason}.")
    return path


def _is_linear(
    path: HeadPath, model: nn.Module, calls: Mapping[str, tuple[Tensor, Tensor]], logits: Tensor
) -> bool:
    head = path.head(model)
    features, _ = path.read(calls)
    if features.shape[1] != head.num_features:
        return False
    return close(head(features.to(head.weight)), logits)


def _mismatch(
    module: nn.Module, features: Tensor, output: Tensor, logits: Tensor, *, named: bool = False
) -> str | None:
    """Why a called module is not the head of these logits; None if it is."""
    found = weight_and_bias(module) or folded(module)
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
    if not close(output, logits):
        if close(output.softmax(1), logits) or close(output.log_softmax(1), logits):
            return (
                "yields the logits, but the model returns their (log-)softmax: name it with head="
            )
        return "yields other values than the model returns"
    if not close(head(features.reshape(len(logits), -1).to(head.weight)), logits):
        return "yields the logits, but not as weight @ input + bias (normalised or scaled?)"
    return None


def close(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are equal up to 1e-4 of their largest value, or a few roundings."""
    precision = max(_TOLERANCE, 16 * max(torch.finfo(t.dtype).eps for t in (left, right)))
    error = (left.double() - right.double()).abs().max()
    return bool(error <= precision * max(1.0, float(right.abs().max())))
