"""Stand-ins for OOD data: how well detectors tell ID images from corrupted ones.

Everything here takes many detectors at once and loses none of the others if one fails: what a
detector gave is its result, or else the reason why there is none.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from neroli.activations import Activations, ActivationSource
from neroli.detectors import Detector
from neroli.errors import NeroliError, NeroliWarning, NotEnoughImages, first_line
from neroli.fitting import fit, fit_held_out
from neroli.head import LinearHead

Attempt = Detector | str
"""A fitted detector, or why it could not be fitted."""

FAILURES = (NeroliError, ArithmeticError, RuntimeError, ValueError)
"""What a detector may raise on data it cannot cope with; the last two are, among others, of linear
algebra that does not converge."""


class Scores(NamedTuple):
    """What a detector gave to ID images ``[N]`` and to what stands in for OOD images ``[M]``."""

    inside: NDArray[Any]
    outside: NDArray[Any]

    @classmethod
    def split(cls, scores: Tensor, is_outside: Tensor) -> Scores:
        """Scores ``[N + M]`` and which of them are of stand-ins, bool."""
        return cls(scores[~is_outside].numpy(), scores[is_outside].numpy())


def fitted_copies(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
) -> list[Attempt]:
    """Copies of detectors, fitted in the same passes; the detectors are left as they were.

    If one fails, halves of them are fitted apart until it is found. That data are not as a detector
    assumes is not warned of: it concerns a stand-in.

    Args:
        detectors: any number of detectors.
        train: ID training images.
        head: of the network, ``train`` and ``held_out``.
        held_out: ID images for what only held-out images can teach.
    """
    copies = [copy.copy(detector) for detector in detectors]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NeroliWarning)
            fit(copies, train, head)
            fit_held_out(copies, held_out, head)
    except FAILURES as error:
        if len(copies) == 1:
            return [first_line(error)]
        half = len(copies) // 2
        parts = (detectors[:half], detectors[half:])
        return [a for part in parts for a in fitted_copies(part, train, head, held_out)]
    return list(copies)


def scores(
    attempts: Sequence[Attempt], batches: Iterable[tuple[Activations, Tensor]]
) -> list[Scores | str]:
    """What detectors give to images, or why a detector gave nothing to some of them.

    Args:
        attempts: fitted detectors.
        batches: at least one, with which of its images stand in for OOD images, bool ``[B]``.
    """
    found = list(attempts)
    given: list[list[Tensor]] = [[] for _ in attempts]
    outside: list[Tensor] = []
    for batch, is_outside in batches:
        outside.append(is_outside.cpu())
        for number, attempt in enumerate(found):
            if isinstance(attempt, str):
                continue
            try:
                given[number].append(attempt.score(batch).cpu())
            except FAILURES as error:
                found[number] = first_line(error)
    where = torch.cat(outside)
    return [
        attempt if isinstance(attempt, str) else Scores.split(torch.cat(parts), where)
        for attempt, parts in zip(found, given, strict=True)
    ]


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

    return scores(fitted_copies(detectors, train, head, held_out), batches())
