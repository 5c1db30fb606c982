"""Probes: what detectors measure on the images themselves, while these are loaded.

Some methods need the gradient at the image, or the network run again with a layer changed. A probe
does that during extraction; its values travel with the activations in ``Activations.extras``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from neroli.errors import InvalidInput, first_line
from neroli.head import HeadPath
from neroli.running import LastCalls, run, watched

if TYPE_CHECKING:
    from neroli.activations import Activations
    from neroli.taps import Requirements

Change = Callable[[Tensor], Tensor]
"""What becomes of a layer's output."""


@dataclass(frozen=True, eq=False)
class Network:
    """The user's model as a probe runs it.

    Args:
        model: the model.
        head: where its head stands.
        std: what pixels of 0..1 were divided by, ``[channels, 1, 1]``; None if that is unknown.
        activations: the classifier on images ``[N, ...]``, which keeps what is required, too.
    """

    model: nn.Module
    head: HeadPath
    std: Tensor | None
    activations: Callable[[Tensor, Requirements], Activations]

    def logits(self, images: Tensor, changes: Mapping[str, Change] | None = None) -> Tensor:
        """Logits ``[N, C]`` of images, with some layers' outputs changed on the way.

        Differentiable where gradients are enabled; the model is in eval mode.
        """
        calls = LastCalls()
        grad = torch.is_grad_enabled()
        with (
            watched(self.model, calls.watch(self.head.modules)),
            _changed(self.model, changes or {}),
            torch.set_grad_enabled(grad),
        ):
            run(self.model, images)
        return self.head.read(calls)[1].float()

    def gradient(self, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient at the images of a loss of their logits; the model's own are not touched.

        Raises:
            InvalidInput: if the logits cannot be differentiated.
        """
        with _differentiable(), torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            # a copy, since a model may begin by working in place
            (gradient,) = torch.autograd.grad(loss(self.logits(leaf.clone())), leaf)
        return gradient

    def layer_gradients(
        self, images: Tensor, layers: Sequence[str], loss: Callable[[Tensor], Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """What layers return, and the gradient of a loss of the logits there.

        Raises:
            InvalidInput: if a layer returns no tensor, the logits do not depend on it, or they
                cannot be differentiated.
        """
        outputs: dict[str, Tensor] = {}

        def keep(layer: str) -> Change:
            def change(output: Tensor) -> Tensor:
                if not isinstance(output, Tensor) or not output.is_floating_point():
                    raise InvalidInput(f"The layer {layer!r} returns no tensor: name another.")
                # the first of the layers is where the graph of a frozen model begins
                kept = output if output.requires_grad else output.detach().requires_grad_()
                outputs[layer] = kept
                return kept.clone()  # what follows may work in place

            return change

        with _differentiable(), torch.enable_grad():
            logits = self.logits(images.clone(), {layer: keep(layer) for layer in layers})
            inputs = list(outputs.values()) if logits.requires_grad else []
            found = torch.autograd.grad(loss(logits), inputs, allow_unused=True) if inputs else ()
        gradients = dict(zip(outputs, found, strict=False))  # none where no layer was reached
        for layer in layers:
            if gradients.get(layer) is None:
                raise InvalidInput(
                    f"The logits have no gradient at the layer {layer!r}: name one that they "
                    "depend on, in a network without detach() or no_grad() behind it."
                )
        return [(outputs[layer].detach(), gradients[layer]) for layer in layers]

    def changed_logits(self, images: Tensor, layer: str, change: Change) -> Tensor:
        """Logits ``[N, C]`` of images with one layer's output changed.

        Raises:
            InvalidInput: if the network does not call that layer.
        """
        called = []

        def noted(output: Tensor) -> Tensor:
            called.append(layer)
            return change(output)

        logits = self.logits(images, {layer: noted})
        if not called:
            raise InvalidInput(f"The model did not call the layer {layer!r}: name another.")
        return logits


class Probe(Protocol):
    """Measures images; a frozen dataclass, whose ``str()`` tells it from others."""

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        """Values of every image, each ``[N]`` or ``[N, K]``, by the names they have in extras."""

    def names(self) -> tuple[str, ...]:
        """These names."""

    def layers(self) -> tuple[str, ...]:
        """The layers it needs by name."""


def measured(probe: Probe, network: Network, images: Tensor, at_once: int) -> dict[str, Tensor]:
    """What a probe measures of images, of which it sees at most so many at once."""
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(images), max(at_once, 1)):
        for name, values in probe(network, images[start : start + at_once]).items():
            parts.setdefault(name, []).append(values.detach())
    return {name: torch.cat(values) for name, values in parts.items()}


@contextmanager
def _differentiable() -> Iterator[None]:
    """Outside of a caller's inference mode; errors of autograd are said in a sentence."""
    try:
        with torch.inference_mode(False):
            yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError | InvalidInput):
            raise
        raise InvalidInput(
            f"The network's logits cannot be differentiated ({first_line(error)}): look for "
            "detach(), no_grad() or operations in place in its forward()."
        ) from error


@contextmanager
def _changed(model: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    here = threading.get_ident()  # the user's own threads may run the model meanwhile

    def hook(change: Change) -> Callable[..., Any]:
        def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
            return change(output) if threading.get_ident() == here else None

        return replace

    with ExitStack() as hooks:
        for path, change in changes.items():
            handle = model.get_submodule(path).register_forward_hook(hook(change))
            hooks.callback(handle.remove)
        yield
