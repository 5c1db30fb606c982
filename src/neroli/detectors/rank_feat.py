"""RankFeat: energy of the logits after taking the first rank out of the feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector
from neroli.errors import InvalidInput
from neroli.pooling import Axis, channels_of
from neroli.probes import Network
from neroli.taps import Requirements, Site, check_named


@dataclass(frozen=True)
class RankReducedLogits:
    """Mean over layers of the logits without the first rank of that layer's map, ``[N, C]``."""

    paths: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        return (str(self),)

    def layers(self) -> tuple[str, ...]:
        return self.paths

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        square = images.ndim == 4 and images.shape[2] == images.shape[3]
        reduced = []
        for path in self.paths:
            site = Site.output(path)

            def less(maps: Tensor, axis: Axis | None = site.channels) -> Tensor:
                return reduced_maps(maps, channels_of(maps, axis, square))

            reduced.append(network.changed_logits(images, site.layer, less))
        return {str(self): torch.stack(reduced).mean(dim=0)}


def reduced_maps(maps: Tensor, channels: Axis) -> Tensor:
    """``without_first_rank`` of maps of which something is left then.

    Raises:
        InvalidInput: if they are no maps, or of one place alone.
    """
    if isinstance(maps, Tensor) and maps.ndim == 4:
        places = maps.shape[2:] if channels == "first" else maps.shape[1:3]
        if places.numel() == 1:
            raise InvalidInput("RankFeat needs maps of more than one place: name an earlier layer.")
    return without_first_rank(maps, channels)


def without_first_rank(maps: Tensor, channels: Axis = "first") -> Tensor:
    """Maps ``[N, C, H, W]`` less ``s1 u1 v1^T``, each as a matrix of channels by places.

    Or maps ``[N, H, W, C]``, where the channels are last.

    ``v1`` is the first eigenvector of the smaller Gram matrix: exact, and without the random start
    of a power iteration.

    Raises:
        InvalidInput: if they are no maps.
    """
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise InvalidInput("RankFeat needs layers that return maps [N, C, H, W].")
    if channels == "last":
        return without_first_rank(maps.movedim(-1, 1)).movedim(1, -1)
    matrix = maps.flatten(2).double()
    tall = matrix.shape[1] >= matrix.shape[2]
    side = matrix if tall else matrix.transpose(1, 2)
    first = torch.linalg.eigh(side.transpose(1, 2) @ side).eigenvectors[..., -1:]
    rest = side - side @ first @ first.transpose(1, 2)
    reduced: Tensor = rest if tall else rest.transpose(1, 2)
    return reduced.reshape(maps.shape).to(maps)


@dataclass(eq=False)
class RankFeat(Detector):
    """RankFeat: minus the log-sum-exp of logits from maps without their first singular value.

    ``-LSE((z' + z'') / 2)`` with ``z'`` and ``z''`` the logits after ``s1 u1 v1^T`` was taken out
    of the last and of the last but one stage's map: OOD images live on that rank more than others.

    Args:
        layers: paths of these stages; the default is that of torchvision's and timm's ResNets.

    It runs the network once more for every layer.

    Source: Song et al., NeurIPS 2022, arXiv 2209.08590.
    """

    name: ClassVar[str] = "rank_feat"
    paper: ClassVar[Paper | None] = Paper(
        "Song et al.",
        2022,
        "NeurIPS",
        "2209.08590",
        "RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection",
    )
    measures: ClassVar[str] = "energy of the logits after taking the first rank out of the maps"

    layers: tuple[str, ...] = parameter(("layer4", "layer3"), "paths of the layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named(self.layers)

    @property
    def requires(self) -> Requirements:
        return Requirements(probes=(self._probe(),))

    def compute(self, batch: Activations) -> Tensor:
        return -batch.extras[str(self._probe())].to(batch.features).logsumexp(dim=1)

    def _probe(self) -> RankReducedLogits:
        return RankReducedLogits(self.layers)
