"""Classifier: a trained network, split into backbone and linear head without being changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from neroli.activations import Activations
from neroli.compiling import CompiledNetwork
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import as_images
from neroli.discovery import find_head
from neroli.errors import HeadNotFound, InvalidInput
from neroli.execution import AS_IT_IS, Execution
from neroli.exported import with_linear_modules
from neroli.files import tensors_digest
from neroli.head import HeadPath, LinearHead
from neroli.probes import Network, measured
from neroli.running import BATCH_COUNTER, LastCalls, run, unknown_module, watched
from neroli.stand_in import StandIn
from neroli.taps import NOTHING, PREPOOL, Requirements, Site, Tap, find_prepool, watchers_of
from neroli.views import ViewProbe, measures_more

_IMAGES_TO_FIND_HEAD = 8
_IMAGES_PROBED = 16
"""At a time: a graph of gradients takes many times the memory of a plain run."""


class Classifier:
    """A trained image classifier whose features and logits are wanted.

    The linear head is found on the first images by checking numbers: the last module whose output
    equals the logits and whose input ``f`` satisfies ``weight f + bias = logits``, or two or three
    whose average does. The network runs in eval mode and without gradients, where it stands
    (``model.to("cuda")`` first to use a GPU), and is given back as it was found; nothing stays
    hooked to it.

    Args:
        model: any module that takes images ``[N, ...]`` and returns logits ``[N, C]``, or an output
            with ``.logits``; or a program of ``torch.export``, which is made into a module.
        head: path of the head, as in ``model.named_modules()`` (averaged heads: see ``HeadPath``);
            found when left out. The logits are then that layer's output.
        prepool: path of the layer whose map is pooled into the features, for detectors that need
            it; found when left out.
        preprocessing: how pictures become the network's input; needed for anything but float
            tensors.
        class_names: names of the C classes, if known.
        execution: how the network is run; as it is when left out.

    Raises:
        HeadNotFound: if ``head`` is given and the model has no such linear layer.
        InvalidInput: if ``prepool`` is given and the model has no such layer, or ``execution`` and
            another program runs the network.
        ModelError: if an exported program cannot be used.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        head: str | None = None,
        *,
        prepool: str | None = None,
        preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] | None = None,
        execution: Execution = AS_IT_IS,
    ) -> None:
        if isinstance(model, ExportedProgram | GraphModule):
            model = with_linear_modules(model)
        if not isinstance(model, nn.Module):
            raise InvalidInput(f"model must be a torch.nn.Module, got a {type(model).__name__}.")
        self.model = model
        self.preprocessing = preprocessing
        self.execution = execution
        self._compiled: CompiledNetwork | None = None
        if isinstance(class_names, str):
            raise InvalidInput(f"class_names must be a list of names, got {class_names!r}.")
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self._named_head = head
        self._head_name: str | None = None
        self.input_shape: tuple[int, ...] | None = None
        """Shape of the image that the head was found on; pictures of another are unreadable."""
        self._prepool = None if prepool is None else Site.parse(prepool)
        if head is not None:
            HeadPath.parse(head).head(model)
        if self._prepool is not None:
            self._check_layer(self._prepool)

    def __repr__(self) -> str:
        head = self._head_name or self._named_head or "to be found on the first images"
        return f"Classifier({type(self.model).__name__}, head={head!r})"

    @property
    def execution(self) -> Execution:
        """How the network is run.

        Raises:
            InvalidInput: on setting anything but ``AS_IT_IS`` if another program runs the network.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        if isinstance(self.model, StandIn) and execution != AS_IT_IS:
            raise InvalidInput(
                f"{self.model.runtime} runs the network as it was exported and cannot run it as "
                f"{execution}: give --precision float32 --no-channels-last --no-compile "
                "(execution=Execution()), or use the network itself."
            )
        self._execution = execution

    @property
    def head_name(self) -> str:
        """Path of the head in the model.

        Raises:
            HeadNotFound: if it was not named and no images have been seen yet.
        """
        name = self._head_name or self._named_head
        if name is None:
            raise HeadNotFound(
                "The head is found on the first images: call classifier(images) first, or name it, "
                'Classifier(model, head="path.to.layer").'
            )
        return name

    @property
    def head(self) -> LinearHead:
        """The linear head with its present weights.

        Raises:
            HeadNotFound: as ``head_name``.
        """
        return HeadPath.parse(self.head_name).head(self.model)

    def name_head(self, name: str) -> None:
        """Say which module is the head, as an activation store of this classifier knows it.

        Raises:
            HeadNotFound: if there is no such linear layer.
            InvalidInput: if another one was named or found before.
        """
        known = self._head_name or self._named_head
        if known not in (None, name):
            raise InvalidInput(f"The classifier's head is {known!r}, not {name!r}.")
        HeadPath.parse(name).head(self.model)
        self._named_head = name

    def prepare(self, images: Any) -> Tensor:
        """The network's input for images in any form; see ``neroli.data.sources.as_images``."""
        return as_images(images, self.preprocessing)

    def find_head(self, images: Any) -> None:
        """Find the head on a few images, or check the one that was named; done once.

        Raises:
            HeadNotFound: if there is none, with what was tried.
        """
        if self._head_name is None:
            some = self._few(images)
            path = find_head(self.model, some, self._named_head)
            classes = path.head(self.model).num_classes
            if classes < 2:
                raise InvalidInput(
                    "The model has a single output: neroli needs one logit for each of two classes "
                    "or more."
                )
            if self.class_names is not None and len(self.class_names) != classes:
                raise InvalidInput(
                    f"There are {len(self.class_names)} class names for {classes} classes."
                )
            self._head_name = str(path)
            self.input_shape = self.input_shape or tuple(some.shape[1:])

    @property
    def prepool_name(self) -> str | None:
        """The layer whose map is pooled into the features; None if it was not needed so far."""
        return None if self._prepool is None else str(self._prepool)

    def find_prepool(self, images: Any) -> str:
        """Find that layer on a few images, unless it was named; done once.

        Raises:
            HeadNotFound: if there is no such map, or no head.
        """
        if self._prepool is None:
            some = self._few(images)
            self.find_head(some)
            self._prepool = find_prepool(self.model, some, self.as_it_is()(some).features)
        return str(self._prepool)

    def check_requirements(self, requires: Requirements) -> None:
        """Raise InvalidInput if the model lacks a layer that is required, naming it."""
        inside = requires.taps or requires.prepool or measures_more(requires)
        if isinstance(self.model, StandIn) and inside:
            raise InvalidInput(self.model.refusal("What the detector requires needs"))
        for site in requires.sites():
            self._check_layer(site)

    def __call__(
        self,
        images: Any,
        labels: Tensor | None = None,
        ids: Sequence[str] | None = None,
        requires: Requirements = NOTHING,
    ) -> Activations:
        """Features and logits of some images, from one run of the network.

        Args:
            images: a preprocessed float tensor ``[N, ...]``, or as ``prepare`` takes them.
            labels: ``[N]`` true classes, if known.
            ids: N names, if known.
            requires: what else to keep while the network runs.

        Returns:
            Activations on the model's device; half precision becomes float32. Where ``execution``
            runs the network in half precision, the head is computed in float32.

        Raises:
            HeadNotFound: on the first images, if there is no linear head, or no map before pooling
                where one is required.
            InvalidInput: if the images cannot be used, the network cannot take them, or it lacks a
                layer that is required.
        """
        given = images
        images = self.placed(self.prepare(images))
        if isinstance(given, Tensor) and images.data_ptr() == given.data_ptr():
            images = images.clone()  # a model may work in place, but not on the caller's images
        self.find_head(images)
        self.check_requirements(requires)
        taps = {str(tap): tap for tap in requires.taps}
        extras = {}
        if requires.prepool:
            layer = self.find_prepool(images)
            extras = dict(zip(PREPOOL, (Tap(layer, "max"), Tap(layer, "mean")), strict=True))
        head = HeadPath.parse(self.head_name)
        # a model may work in place, but not on the images that probes measure
        shown = images.clone() if requires.probes else images
        with self.execution.applied(images.device):
            calls, tapped = self._run(self.execution.laid_out(shown), head, taps | extras)
        absent = [*(set(head.modules) - calls.keys()), *((taps | extras).keys() - tapped.keys())]
        if absent:
            raise HeadNotFound(
                f"The model did not call {absent[0]!r} on these images: its path depends on the "
                "input, which neroli does not support."
            )
        features, logits = map(_full_precision, head.read(calls))
        if self.execution.is_half:
            self._check_range(features)
            logits = self.head(features)
        labels = None if labels is None else torch.as_tensor(labels).to(features.device)
        return Activations(
            features,
            logits,
            labels,
            ids,
            taps={name: tapped[name] for name in taps},
            extras={name: tapped[name] for name in extras} | self._probed(images, requires),
        )

    def as_it_is(self) -> Classifier:
        """This classifier, running the network as it is; itself if it does so anyway."""
        if self.execution == AS_IT_IS:
            return self
        plain = copy.copy(self)
        plain.execution = AS_IT_IS
        return plain

    def _run(
        self, images: Tensor, head: HeadPath, taps: Mapping[str, Tap]
    ) -> tuple[Mapping[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """What the head's modules took and gave, and what taps pooled, by name."""
        if self.execution.compile:
            if self._compiled is None or not self._compiled.is_of(self.model):
                self._compiled = CompiledNetwork(self.model)
            return self._compiled(images, head, taps)
        calls, tapped = LastCalls(), dict[str, Tensor]()
        watchers = [*calls.watch(head.modules), *watchers_of(taps, images, tapped)]
        with watched(self.model, watchers):
            run(self.model, images)
        return calls, tapped

    def _check_range(self, features: Tensor) -> None:
        """Raise InvalidInput if half precision could not hold what the network computed."""
        bad = (~torch.isfinite(features).all(1)).nonzero()
        if len(bad):
            raise InvalidInput(
                f"In {self.execution.precision} the features of image {int(bad[0])} of the batch "
                "are NaN or infinite (numbers of float16 end at 65,504): run the network in "
                "bfloat16 or float32."
            )

    def _probed(self, images: Tensor, requires: Requirements) -> dict[str, Tensor]:
        std = None if self.preprocessing is None else self.preprocessing.std
        network = Network(
            self.model,
            HeadPath.parse(self.head_name),
            None if std is None else images.new_tensor(std).view(-1, 1, 1),
            lambda images, requires: self(images, requires=requires),
        )
        parts: dict[str, Tensor] = {}
        for probe in requires.probes:
            size = len(images) if isinstance(probe, ViewProbe) else _IMAGES_PROBED
            parts |= measured(probe, network, images, size)
        return parts

    def weights_hash(self) -> str:
        """A hash of the model's parameters and buffers, by which saved guards know their model."""
        if isinstance(self.model, StandIn):
            return self.model.weights_hash
        state = {k: v for k, v in self.model.state_dict().items() if not k.endswith(BATCH_COUNTER)}
        return tensors_digest({k: v for k, v in state.items() if isinstance(v, Tensor)})

    def _few(self, images: Any) -> Tensor:
        """A few images to check numbers on; noise if they are blank, on which too much is equal."""
        some = self.placed(self.prepare(images)[:_IMAGES_TO_FIND_HEAD]).clone()
        if bool((some == some.flatten()[0]).all()):
            noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(0))
            some = noise.to(some)
        return some

    def _check_layer(self, site: Site) -> None:
        if isinstance(self.model, StandIn):
            raise InvalidInput(self.model.refusal(f"Naming the layer {str(site)!r} needs"))
        if unknown := unknown_module(self.model, site.layer):
            raise InvalidInput(unknown)

    def placed(self, images: Tensor) -> Tensor:
        """Images on the device and in the precision of the model."""
        parameter = self._first_parameter()
        return images if parameter is None else images.to(parameter.device, parameter.dtype)

    @property
    def device(self) -> torch.device:
        """Where the model stands."""
        parameter = self._first_parameter()
        return torch.device("cpu") if parameter is None else parameter.device

    def _first_parameter(self) -> Tensor | None:
        return next((p for p in self.model.parameters() if p.is_floating_point()), None)


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
