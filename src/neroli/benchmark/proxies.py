"""Stand-ins for OOD data: how well detectors tell ID images from corrupted ones.

Everything here takes many detectors at once and loses none of the others if one fails: what a
detector gave is its result, or else the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    given: list[list[Tensor]] = [[] for _ in learners]
    outside: list[Tensor] = []
    for batch, is_outside in batches:
        outside.append(is_outside.cpu())
        for learner, parts in zip(learners, given, strict=True):
            if (values := learner.score(batch)) is not None:
                parts.append(values.cpu())
    where = torch.cat(outside).numpy() if outside else np.zeros(0, dtype=bool)
    found: list[Scores | str] = []
    for learner, parts in zip(learners, given, strict=True):
        if learner.error:
            found.append(reason_of(learner.error))
        else:
            values = torch.cat(parts).numpy() if parts else np.zeros(0)
            found.append(Scores(values[~where], values[where]))
    return found


def corrupted_scores(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
    corrupted: ActivationSource,
) -> list[Scores | str]:
    """What detectors give to clean and to corrupted held-out images, or why they give nothing.

    A detector that learns from held-out images learns from the clean ones, which are then scored
    too: a temperature or a mean, too few numbers to matter.

    Args:
        detectors: any number of detectors; they are left as they were.
        train: ID training images.
        head: of the network.
        held_out: ID images that neither the classifier nor a detector was trained on.
        corrupted: held-out images made unlike ID ones, see ``neroli.data.corruptions``.

    Raises:
        NotEnoughImages: if there is no clean or no corrupted image.
    """
    for kind, source in (("held-out", held_out), ("corrupted", corrupted)):
        if len(source) == 0:
            raise NotEnoughImages(f"There is no {kind} image: give at least one readable one.")

    def batches() -> Iterator[tuple[Activations, Tensor]]:
        for is_outside, source in enumerate((held_out, corrupted)):
            for batch in source.batches():
                yield batch, torch.full((len(batch),), bool(is_outside))

    return scores(fitted(detectors, train, head, held_out), batches())
