"""The network behind the server: one worker thread that takes waiting images in batches."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from neroli.artefact import packed
from neroli.data.pictures import sized
from neroli.data.sources import NO_PREPROCESSING
from neroli.errors import InvalidInput, NotFitted, UnreadableImage
from neroli.explain.explanation import Explanation
from neroli.files import tensors_digest, text_digest
from neroli.guard import Guard
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings
from neroli.serve.uploads import Refused, Upload

T = TypeVar("T")

BATCHES_BEFORE_AN_EXPLANATION = 4
"""Explanations wait while images do, but no longer than for so many batches."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What the network says of one image."""

    score: float
    p_value: float
    is_ood: bool
    predicted_class: int
    threshold: float


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An image in the queue."""

    pixels: Tensor
    since: float
    outcome: Future[Outcome] = field(default_factory=Future)


class Engine:
    """Scores and explains images, in one thread, with batches of what is waiting.

    Args:
        guard: fitted and calibrated; nobody else may run its network meanwhile.
        settings: how the server is run.

    Raises:
        NotFitted, NotCalibrated: if the guard is not.
        InvalidInput: if it has no preprocessing for pictures, or its model has other weights.
    """

    def __init__(self, guard: Guard, settings: Settings) -> None:
        self.guard = guard
        self.settings = settings
        self.calibration = guard.check_calibrated()
        self.guard_version = version_of(guard)
        preprocessing = guard.classifier.preprocessing
        if preprocessing is None:
            raise InvalidInput(NO_PREPROCESSING)
        self._preprocessing = preprocessing
        self._queue: deque[_Waiting] = deque()
        self._explanations: deque[tuple[Upload, Future[Explanation]]] = deque()
        self._accepted = 0  # images, in the queue or on their way into it
        self._explaining = 0
        self._batches = 0  # since the last explanation
        self._seconds_per_image = 0.05
        self._changed = threading.Condition()
        self._closing = False
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "neroli-decode")
        self._worker = threading.Thread(target=self._work, name="neroli-network", daemon=True)
        self._worker.start()

    @property
    def ready(self) -> bool:
        """Whether images are accepted."""
        return self._worker.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """How many images are accepted and not scored yet."""
        return self._accepted

    async def aside(self, work: Callable[..., T], *arguments: object) -> T:
        """What some work on images gives, done in one of a few threads beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, lambda: work(*arguments))

    async def score(self, uploads: Sequence[Upload], request: str) -> list[Scored]:
        """What the guard says of images, which are accepted all or not at all.

        Raises:
            Refused: 422 if an image does not suit the network, 503 if the queue is full or the
                server is about to stop.
        """
        scored = []
        for result in await self.each(uploads, request):
            if isinstance(result, Refused):
                raise result
            scored.append(result)
        return scored

    async def each(self, uploads: Sequence[Upload], request: str) -> list[Scored | Refused]:
        """As ``score``, with the refusal of an image that does not suit in its place.

        Raises:
            Refused: 503, as ``score``.
        """
        since = time.time()
        self._accept(len(uploads))
        try:
            prepared = await asyncio.gather(
                *(self.aside(self._prepared, upload) for upload in uploads)
            )
            outcomes = [one if isinstance(one, Refused) else one.outcome for one in prepared]
            with self._changed:
                self._queue.extend(one for one in prepared if isinstance(one, _Waiting))
                self._changed.notify_all()
            results: list[Scored | Refused] = []
            for upload, outcome in zip(uploads, outcomes, strict=True):
                if isinstance(outcome, Future):
                    try:
                        said = await asyncio.wrap_future(outcome)
                        results.append(self._scored(upload, request, since, said))
                    except Refused as refused:
                        results.append(refused)
                else:
                    results.append(outcome)
            return results
        finally:
            with self._changed:
                self._accepted -= len(uploads)
                self._changed.notify_all()

    async def explain(self, upload: Upload) -> Explanation:
        """Why an image would be flagged, or not.

        Raises:
            Refused: as ``score``.
        """
        explained: Future[Explanation] = Future()
        with self._changed:
            self._check_open()
            if self._explaining >= self.settings.limits.explanations:
                raise Refused(503, "Too many explanations are waiting: try again soon.", 5.0)
            self._explaining += 1
        try:
            prepared = await self.aside(self._prepared, upload)
            if isinstance(prepared, Refused):  # the network may take it, but was not calibrated so
                raise prepared
            with self._changed:
                self._explanations.append((upload, explained))
                self._changed.notify_all()
            return await asyncio.wrap_future(explained)
        finally:
            with self._changed:
                self._explaining -= 1
                self._changed.notify_all()

    async def close(self) -> None:
        """Accept nothing more, and finish what was accepted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        await asyncio.to_thread(self._worker.join)
        self._decoders.shutdown()

    def _check_open(self) -> None:
        if not self.ready:
            raise Refused(503, "The server is about to stop: try again soon.", 5.0)

    def _accept(self, count: int) -> None:
        with self._changed:
            self._check_open()
            if self._accepted + count > self.settings.limits.queue:
                seconds = max(1.0, math.ceil(self._accepted * self._seconds_per_image))
                raise Refused(
                    503,
                    f"{self._accepted} images are waiting, {self.settings.limits.queue} may: try "
                    "again soon.",
                    seconds,
                )
            self._accepted += count

    def _prepared(self, upload: Upload) -> _Waiting | Refused:
        try:
            pixels = self._preprocessing.pixels(upload.picture)
            pixels = sized(pixels, self.guard.classifier.input_shape)
        except UnreadableImage as error:
            return Refused(422, f"The image {error.told}.")
        return _Waiting(pixels, time.monotonic())

    def _scored(self, upload: Upload, request: str, since: float, said: Outcome) -> Scored:
        names = self.guard.classifier.class_names
        return Scored(
            id=uuid.uuid4().hex,
            request=request,
            content=upload.content,
            at=since,
            predicted_class=said.predicted_class,
            predicted_name=None if names is None else names[said.predicted_class],
            score=said.score,
            p_value=said.p_value,
            is_ood=said.is_ood,
            threshold=said.threshold,
            guard=self.guard_version,
        )

    def _work(self) -> None:
        """The worker: until all that was accepted is done and the engine is closed."""
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """What to do next, waited for; None at the end."""
        with self._changed:
            while True:
                overdue = self._batches >= BATCHES_BEFORE_AN_EXPLANATION or not self._queue
                if self._explanations and overdue:
                    self._batches = 0
                    upload, explained = self._explanations.popleft()
                    return lambda: self._explain(upload, explained)
                if self._queue:
                    full = len(self._queue) >= self.settings.batch_size
                    left = self._queue[0].since + self.settings.latency - time.monotonic()
                    if full or left <= 0 or self._closing:
                        size = min(len(self._queue), self.settings.batch_size)
                        batch = [self._queue.popleft() for _ in range(size)]
                        self._batches += 1
                        return lambda: self._score(batch)
                    self._changed.wait(left)
                elif self._closing and not self._accepted and not self._explaining:
                    return None
                else:
                    self._changed.wait()

    def _score(self, batch: list[_Waiting]) -> None:
        """Score a batch; if that fails, its images one by one, so that no other suffers for one."""
        batch = [one for one in batch if one.outcome.set_running_or_notify_cancel()]
        by_shape: dict[torch.Size, list[_Waiting]] = {}
        for one in batch:
            by_shape.setdefault(one.pixels.shape, []).append(one)
        for alike in by_shape.values():
            try:
                started = time.monotonic()
                outcomes = self._outcomes(alike)
                taken = (time.monotonic() - started) / len(alike)
                self._seconds_per_image += 0.2 * (taken - self._seconds_per_image)
            except Exception:
                for one in alike:
                    _fulfil(one.outcome, lambda one=one: self._outcomes([one])[0])  # type: ignore[misc]
            else:
                for one, outcome in zip(alike, outcomes, strict=True):
                    one.outcome.set_result(outcome)

    def _outcomes(self, batch: list[_Waiting]) -> list[Outcome]:
        images = self._preprocessing.normalised(torch.stack([one.pixels for one in batch]))
        verdicts = self.guard(images)
        columns = (
            verdicts.score,
            verdicts.p_value,
            verdicts.is_ood,
            verdicts.predicted_class,
            self.calibration.thresholds[verdicts.predicted_class],
        )
        return [Outcome(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]

    def _explain(self, upload: Upload, explained: Future[Explanation]) -> None:
        if explained.set_running_or_notify_cancel():
            _fulfil(explained, lambda: self.guard.explain(upload.picture))


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    """Give a future what some work gives, or why it cannot be had."""
    try:
        future.set_result(work())
    except InvalidInput as error:
        _log.warning("The network cannot take an image: %s", error)
        refused = Refused(422, "The network cannot take the image; the server's log says why.")
        future.set_exception(refused)
    except Exception as error:
        _log.exception("The network failed on an image.")
        future.set_exception(error)


def version_of(guard: Guard) -> str:
    """What tells this guard from others: 16 hexadecimal digits, the same once saved and loaded.

    A hash of detector, classifier, training, calibration and all that was learned; not of when and
    where it was saved.

    Raises:
        NotFitted: if it is not.
        InvalidInput: if the model's weights are not those it was fitted on.
    """
    manifest = guard.manifest()
    if guard.reference is None:
        raise NotFitted("The guard is not fitted: there is nothing to serve yet.")
    parts = {"detector", "classifier", "training", "calibration"}
    # without defaults, that fields of later versions make no other guard
    told = manifest.model_dump_json(include=parts, exclude_defaults=True)
    learned = packed(guard.detector, guard.calibration, guard.known, guard.reference)
    return text_digest([told, tensors_digest(learned)])[:16]
