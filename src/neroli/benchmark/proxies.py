"""Stand-ins for OOD data: how well detectors tell ID images from corrupted ones.

Everything here takes many detectors at once and loses none of the others if one fails: what a
detector gave is its result, or else the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neroli.activations import Activations, ActivationSource
from neroli.benchmark.isolation import Isolated, reason_of
from neroli.detectors import Detector
from neroli.errors import NotEnoughImages
from neroli.fitting import fit, fit_held_out
from neroli.head import LinearHead


class Scores(NamedTuple):
    """What a detector gave to ID images ``[N]`` and to what stands in for OOD images ``[M]``."""

    inside: NDArray[Any]
    outside: NDArray[Any]


def fitted(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
) -> list[Isolated]:
    """Detectors fitted in the same passes, those that fail among them; the given ones stay as is.

    Args:
        detectors: any number of detectors.
        train: ID training images.
        head: of the network, ``train`` and ``held_out``.
        held_out: ID images for what only held-out images can teach.
    """
    learners = fit([Isolated(detector) for detector in detectors], train, head)
    fit_held_out([learner for learner in learners if not learner.error], held_out, head)
    return learners


def scores(
    learners: Sequence[Isolated], batches: Iterable[tuple[Activations, Tensor]]
) -> list[Scores | str]:
    """What detectors give to images, or why a detector gave nothing to some of them.

    Args:
        learners: fitted detectors.
        batches: images with which of them stand in for OOD images, bool ``[B]``.
    """
    outside: list[Tensor] = []

    def noted() -> Iterable[Activations]:
        for batch, is_outside in batches:
            outside.append(is_outside.cpu())
            yield batch

    given = _given(learners, noted())
    where = torch.cat(outside).numpy() if outside else np.zeros(0, dtype=bool)
    return [
        reason_of(learner.error) if learner.error else Scores(values[~where], values[where])
        for learner, values in zip(learners, given, strict=True)
    ]


def held_out_scores(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
    others: Mapping[str, ActivationSource],
) -> list[dict[str, NDArray[Any]] | str]:
    """What detectors give to held-out images and to others, or why they give nothing.

    A detector that learns from held-out images learns from all of them, which are then scored too:
    a temperature or a mean, too few numbers to matter.

    Args:
        detectors: any number of detectors; they are left as they were.
        train: ID training images.
        head: of the network.
        held_out: ID images that neither the classifier nor a detector was trained on.
        others: by what they are called, such as held-out images made unlike ID ones ("corrupted",
            see ``neroli.data.corruptions``).

    Returns:
        for each detector its scores by source, ``[N]`` each, those of ``held_out`` as "held-out".

    Raises:
        NotEnoughImages: if there is no image of a kind.
    """
    sources = {"held-out": held_out, **others}
    for kind, source in sources.items():
        if len(source) == 0:
            raise NotEnoughImages(f"There is no {kind} image: give at least one readable one.")
    learners = fitted(detectors, train, head, held_out)
    given = {kind: _given(learners, source.batches()) for kind, source in sources.items()}
    return [
        reason_of(learner.error)
        if learner.error
        else {kind: values[number] for kind, values in given.items()}
        for number, learner in enumerate(learners)
    ]


def _given(learners: Sequence[Isolated], batches: Iterable[Activations]) -> list[NDArray[Any]]:
    """The scores of images by each detector, ``[N]``; of fewer by one that failed."""
    parts: list[list[Tensor]] = [[] for _ in learners]
    for batch in batches:
        for learner, own in zip(learners, parts, strict=True):
            if (values := learner.score(batch)) is not None:
                own.append(values.cpu())
    return [torch.cat(own).numpy() if own else np.zeros(0) for own in parts]
