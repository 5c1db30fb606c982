"""ODIN: confidence after a small step of the image towards its predicted class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector
from neroli.probes import Network
from neroli.taps import Requirements


@dataclass(frozen=True)
class SteppedConfidence:
    """The greatest probability ``max softmax(z / T)`` after the step, ``[N]``.

    Args:
        temperature: T.
        epsilon: size of the step, in pixels of 0..1.
        single: step in the one value with the largest gradient alone.
    """

    temperature: float
    epsilon: float
    single: bool

    def names(self) -> tuple[str, ...]:
        return (str(self),)

    def layers(self) -> tuple[str, ...]:
        return ()

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        if self.epsilon > 0:
            gradient = network.gradient(images, self._loss)
            step = (self._largest(gradient) if self.single else gradient).sign()
            scale = self.epsilon if network.std is None else self.epsilon / network.std
            images = images - scale * step
        # in float64: at T = 1000 all probabilities are close to 1 / C
        scaled = network.logits(images).double() / self.temperature
        return {str(self): scaled.softmax(1).amax(1)}

    def _loss(self, logits: Tensor) -> Tensor:
        scaled = logits / self.temperature
        return F.cross_entropy(scaled, scaled.argmax(1), reduction="sum")

    @staticmethod
    def _largest(gradient: Tensor) -> Tensor:
        """The gradient at the value where it is largest, zero elsewhere."""
        flat = gradient.flatten(1)
        index = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, index, flat.gather(1, index)).view_as(gradient)


@dataclass(eq=False)
class ODIN(Detector):
    """ODIN: minus the confidence at temperature T, after a step that raises it.

    ``-max softmax(z(x') / T)`` with ``x' = x - epsilon sign(grad_x CE(z(x) / T, c)) / std`` and c
    the predicted class: images of the training distribution gain more by the step.

    Args:
        temperature: T.
        epsilon: size of the step in pixels of 0..1; divided by the preprocessing's std, and taken
            as it is where the images came as tensors and that is unknown. Published values were
            tuned on OOD images; without any, 0.0014 is a common choice, and 0 leaves the step out.

    It runs the network two more times for every image, and once backwards.

    Source: Liang et al., ICLR 2018, arXiv 1706.02690, eq. 1 and 2.
    """

    name: ClassVar[str] = "odin"
    paper: ClassVar[Paper | None] = Paper(
        "Liang et al.",
        2018,
        "ICLR",
        "1706.02690",
        "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
    )
    measures: ClassVar[str] = "minus confidence after a step of the image that raises it"
    single: ClassVar[bool] = False

    temperature: float = parameter(1000.0, "temperature of the logits", above=0)
    epsilon: float = parameter(0.0014, "size of the step, in pixels of 0..1", at_least=0)

    @property
    def requires(self) -> Requirements:
        return Requirements(probes=(self._probe(),))

    def compute(self, batch: Activations) -> Tensor:
        return -batch.extras[str(self._probe())].to(batch.features)

    def _probe(self) -> SteppedConfidence:
        return SteppedConfidence(self.temperature, self.epsilon, self.single)


@dataclass(eq=False)
class IODIN(ODIN):
    """i-ODIN: ODIN with a step in one value of the image alone, that of the largest gradient.

    Args:
        temperature: T.
        epsilon: size of the step, as of ``ODIN``.

    Source: the test-time companion of ASCOOD (arXiv 2411.10794), by its public program.
    """

    name: ClassVar[str] = "i_odin"
    paper: ClassVar[Paper | None] = None
    measures: ClassVar[str] = "minus confidence after a step in one value of the image"
    single: ClassVar[bool] = True
