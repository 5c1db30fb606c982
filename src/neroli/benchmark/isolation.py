"""Detectors fitted in the same passes, each timed, none of which can stop the others."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors import Detector
from neroli.errors import NeroliError
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.statistics import Statistic
from neroli.taps import Requirements

Value = TypeVar("Value")


def reason_of(error: Exception) -> str:
    """Why something failed, in a sentence: neroli's own, or of what kind another error was."""
    return str(error) if isinstance(error, NeroliError) else f"{type(error).__name__}: {error}"


class Isolated:
    """A detector that ``neroli.fit`` can fit among others; if it fails, they do not.

    Args:
        detector: what is fitted; a copy takes its place.

    Attributes:
        error: why fitting failed; None if it did not.
        seconds: its own computation and all statistics it asked for, as if it were alone; without
            the time of reading the activations.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.error: Exception | None = None
        self.seconds = 0.0

    @property
    def head(self) -> LinearHead | None:
        return self.detector.head

    @head.setter
    def head(self, head: LinearHead | None) -> None:
        self.detector.head = head

    shrunk: float | None = None
    assumed: tuple[Assumption, ...] = ()
    """Asked of the detector itself by whoever wants to say so."""

    @property
    def requires_to_fit(self) -> Requirements:
        return self.detector.requires_to_fit

    def forget(self) -> None:
        """Begin anew with a copy of the detector."""
        self.detector = copy.copy(self.detector)
        self.detector.forget()
        self.error, self.seconds = None, 0.0

    def learn(self, head: LinearHead) -> Learning:
        """As the detector, until it fails."""
        yield from self._isolated(self.detector.learn(head))

    def learn_held_out(self, head: LinearHead) -> Learning:
        """As the detector, until it fails."""
        yield from self._isolated(self.detector.learn_held_out(head))

    def score(self, batch: Activations) -> Any:
        """The detector's scores ``[N]``, timed; None once it has failed."""
        return None if self.error else self._attempt(lambda: self.detector.score(batch))

    def _isolated(self, steps: Learning) -> Learning:
        results: Any = None
        while True:
            request = self._attempt(lambda: _next(steps, results))  # noqa: B023 (called at once)
            if request is None:
                return
            single = isinstance(request, Statistic)
            asked = (request,) if single else tuple(request)
            metered = yield tuple(Metered(statistic) for statistic in asked)
            self.seconds += sum(each.seconds for each in metered)
            self.error = next((each.error for each in metered if each.error), None)
            if self.error:
                return
            results = metered[0].result if single else tuple(each.result for each in metered)

    def _attempt(self, job: Callable[[], Value]) -> Value | None:
        start = time.perf_counter()
        try:
            return job()
        except Exception as error:  # a detector of the user's may raise anything
            self.error = error
            return None
        finally:
            self.seconds += time.perf_counter() - start


class Metered(Statistic[Any]):
    """A statistic that is timed, and keeps what it raises; it is its own result.

    Args:
        statistic: what is gathered; it alone says which requests are equal.
    """

    def __init__(self, statistic: Statistic[Any]) -> None:
        self.statistic = statistic
        self.error: Exception | None = None
        self.seconds = 0.0
        self.result: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metered) and self.statistic == other.statistic

    __hash__ = None  # type: ignore[assignment]  # as of the statistics, which are mutable

    @property
    def needs_labels(self) -> bool:
        return self.statistic.needs_labels

    def update(self, batch: Activations) -> None:
        self._attempt(lambda: self.statistic.update(batch))

    def merge(self, other: Metered) -> None:
        self._attempt(lambda: self.statistic.merge(other.statistic))
        self.seconds += other.seconds
        self.error = self.error or other.error

    def finalize(self) -> Metered:
        self.result = self._attempt(self.statistic.finalize)
        return self

    def _attempt(self, job: Callable[[], Value]) -> Value | None:
        if self.error:
            return None
        start = time.perf_counter()
        try:
            return job()
        except Exception as error:  # told by the detectors that asked for it
            self.error = error
            return None
        finally:
            self.seconds += time.perf_counter() - start


def _next(steps: Learning, results: Any) -> Any:
    """What a detector asks for next; None once it is done."""
    try:
        return steps.send(results)
    except StopIteration:
        return None
