"""GatheringStore: an activation store whose statistics are gathered elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neroli.statistics import Statistic
from neroli.store import ActivationStore

Gather = Callable[[Sequence[Statistic[Any]]], list[Any]]
"""Gives the results of several statistics over all images, in order."""


class GatheringStore(ActivationStore):
    """A store to fit on, whose statistics something else gathers: other processes, or files.

    Args:
        path: the store's folder.
        gather: what gathers them.

    Raises:
        ArtefactError: as ``ActivationStore``.
    """

    def __init__(self, path: Path | str, gather: Gather) -> None:
        super().__init__(path)
        self._gather = gather

    def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """See ``neroli.fitting.GatheringSource``."""
        return self._gather(statistics)
