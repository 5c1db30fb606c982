"""Which of many images to explain: all of few, and of more the most unusual ones."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from neroli.data.opening import without_labels
from neroli.explain.explanation import TOP, Explanation, explain
from neroli.extraction import stream

if TYPE_CHECKING:
    from torch import Tensor

    from neroli.data.sources import Failure, ImageSource
    from neroli.guard import Guard

EXPLAIN_BATCH = 8
"""Images that are explained at a time; heat maps take more memory than scores."""


@dataclass(order=True, frozen=True)
class _Candidate:
    """An image to explain perhaps: the larger, the more unusual; of equal ones the earlier."""

    unusual: float
    score: float
    earliness: int
    name: str = field(compare=False)
    image: Tensor = field(compare=False)


class Choice:
    """The images of some sources that are to be explained, after all of them were scored once.

    At most ``limit`` images are held in memory, as the network takes them. If there are no more
    than that, they stay in their order; else the most unusual come first.

    Args:
        guard: fitted and calibrated.
        sources: of images.
        limit: of how many images to explain.
        batch_size: images that are scored at a time.

    Attributes:
        failures: images that could not be read.
        left_out: how many readable images are not among those chosen.
    """

    def __init__(
        self, guard: Guard, sources: Sequence[ImageSource], limit: int, batch_size: int
    ) -> None:
        self.failures: list[Failure] = []
        self._guard = guard
        chosen: list[_Candidate] = []
        seen = 0
        for source in sources:
            for batch in stream(
                guard.classifier,
                without_labels(source),
                batch_size=batch_size,
                requires=guard.detector.requires,
            ):
                self.failures += batch.images.failures
                if batch.activations is None:
                    continue
                verdicts = guard.verdicts(batch.activations)
                rows = zip(
                    (-verdicts.p_value).tolist(),
                    verdicts.score.tolist(),
                    batch.images.names,
                    batch.images.images,
                    strict=True,
                )
                for unusual, score, name, image in rows:
                    candidate = _Candidate(unusual, score, -seen, name, image)
                    seen += 1
                    if len(chosen) < limit:
                        heapq.heappush(chosen, _kept(candidate))
                    elif chosen[0] < candidate:
                        heapq.heapreplace(chosen, _kept(candidate))
        self.left_out = seen - len(chosen)
        chosen.sort(key=lambda one: one.earliness, reverse=True)
        if self.left_out:
            chosen.sort(reverse=True)
        self._chosen = chosen

    def explanations(self, *, top: int = TOP) -> Iterator[Explanation]:
        """Those images explained, some at a time.

        Args:
            top: how many neurons are named of each.
        """
        for first in range(0, len(self._chosen), EXPLAIN_BATCH):
            part = self._chosen[first : first + EXPLAIN_BATCH]
            images = torch.stack([one.image for one in part])
            yield from explain(self._guard, images, [one.name for one in part], top=top)


def _kept(candidate: _Candidate) -> _Candidate:
    """With an image of its own: a row of a batch would keep all of the batch in memory."""
    return replace(candidate, image=candidate.image.clone())
