"""Programs of ``torch.export``, made into modules whose linear layers can be watched.

An exported program is a graph of operators without modules to hook. Its linear operators are put
back into modules, under the paths that their weights have, so that a head is found in it as in any
other network.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from neroli.errors import ModelError, first_line
from neroli.program_archive import check_without_code

_ATEN = torch.ops.aten
_TRAIN_FLAG = {_ATEN.dropout.default: 2, _ATEN.dropout_.default: 2, _ATEN.batch_norm.default: 5}
"""Operators that do something else in training, and which argument says so."""


class _Linear(nn.Module):
    """A linear operator of a graph as a module."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("bias", bias)):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def load_program(path: Path | str) -> GraphModule:
    """The module of the program that ``torch.export.save`` wrote.

    Raises:
        ModelError: if the file is missing, damaged or holds more than a graph and tensors, or the
            program cannot be used (see ``with_linear_modules``).
    """
    check_without_code(Path(path))
    try:
        program = torch.export.load(path)
    except Exception as error:  # whatever torch meets in a damaged file
        raise ModelError(
            f"Cannot load the exported program {str(path)!r}: {first_line(error)}"
        ) from None
    return with_linear_modules(program)


def with_linear_modules(program: ExportedProgram | GraphModule) -> GraphModule:
    """An exported program, or the graph module made of one, as a module with linear layers.

    Its weights are those of the program, not copies. Other graph modules are returned as they are.

    Raises:
        ModelError: if it was exported in train mode, or for one batch size only.
    """
    made_here = isinstance(program, ExportedProgram)
    source = program.module() if isinstance(program, ExportedProgram) else program
    assert isinstance(source, GraphModule)
    if not any(isinstance(node.target, OpOverload) for node in source.graph.nodes):
        return source  # traced by torch.fx, with modules of its own
    _check_usable(source)
    if made_here:
        module = source
        for mode in ("train", "eval"):
            module.__dict__.pop(mode, None)  # they refuse, but a mode means nothing to a graph
    else:
        module = GraphModule(source, copy.deepcopy(source.graph), "ExportedProgram")
    for node in list(module.graph.nodes):
        operands = _linear_operands(node)
        if operands is not None:
            _put_into_module(module, node, *operands)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _check_usable(module: GraphModule) -> None:
    for node in module.graph.nodes:
        flag = _TRAIN_FLAG.get(node.target)
        if flag is not None and len(node.args) > flag and node.args[flag] is True:
            raise ModelError(
                "The program was exported in train mode (it drops out or normalises by batch): "
                "export model.eval()."
            )
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor):
            batch = node.meta["val"].shape[0]
            if isinstance(batch, int):
                raise ModelError(
                    f"The program was exported for batches of exactly {batch}: export it with "
                    'dynamic_shapes=({0: torch.export.Dim("batch")},).'
                )


def _linear_operands(node: Node) -> tuple[Node, Node, Node | None] | None:
    """Input, weight and bias nodes of a linear operator; None of other nodes."""
    args: Any = node.args
    if node.target is _ATEN.linear.default:
        found = args[0], args[1], args[2] if len(args) > 2 else None
    elif node.target is _ATEN.addmm.default and not node.kwargs:
        found = args[1], _untransposed(args[2]), args[0]
    elif node.target is _ATEN.mm.default:
        found = args[0], _untransposed(args[1]), None
    else:
        return None
    weights = [value for value in found[1:] if value is not None]
    if found[1] is None or any(value.op != "get_attr" for value in weights):
        return None
    return found


def _untransposed(node: Node) -> Node | None:
    """The node whose transpose this is."""
    if node.target is _ATEN.t.default or (
        node.target is _ATEN.permute.default and list(node.args[1]) == [1, 0]  # type: ignore[arg-type]
    ):
        source = node.args[0]
        return source if isinstance(source, Node) else None
    return None


def _put_into_module(
    module: GraphModule, node: Node, x: Node, weight: Node, bias: Node | None
) -> None:
    values = [None if n is None else _attribute(module, str(n.target)) for n in (weight, bias)]
    assert isinstance(values[0], Tensor)
    path = str(weight.target).removesuffix(".weight")
    if path == str(weight.target) or (bias is not None and str(bias.target) != f"{path}.bias"):
        path = f"{node.name}_module"
    module.add_submodule(path, _Linear(values[0], values[1]))
    with module.graph.inserting_before(node):
        call = module.graph.call_module(path, (x,))
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _attribute(module: nn.Module, path: str) -> Any:
    folder, _, name = path.rpartition(".")
    return getattr(module.get_submodule(folder), name)
