"""What the parts of the server share: guard, engine, records and drift, once they are loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from neroli.errors import RecordsError
from neroli.guard import Guard
from neroli.serve.drift import Drift
from neroli.serve.engine import Engine
from neroli.serve.following import Following
from neroli.serve.metrics import Metrics
from neroli.serve.records import Records
from neroli.serve.scored import Scored
from neroli.serve.settings import Limits, Settings
from neroli.serve.uploads import Budget, Refused, Upload, claimed_pixels, decoded

T = TypeVar("T")

_WRITERS = 4
_READERS = 4
RECORDS_AGAIN = 5.0
"""Seconds after which records may be written again."""
_LOADED = frozenset({"guard", "engine", "records", "drift"})
_log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class State:
    """What the server works with.

    Attributes:
        guard: that is served; its network runs in the engine only.
        engine: that scores and explains.
        records: of what was said; used in threads, ``aside`` from the event loop.
        drift: told of every record in order.
        settings: how the server is run.
        metrics: what is counted.

    Before the guard is loaded (see ``loading``) the first four refuse with 503.
    """

    guard: Guard
    engine: Engine
    records: Records
    drift: Drift
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.failed = False
        self._pixels = Budget(self.settings.limits.pixels_at_once, "pixels")
        self._writer = ThreadPoolExecutor(_WRITERS, "neroli-records")  # whose writes share commits
        self._readers = ThreadPoolExecutor(_READERS, "neroli-read")
        self._failures = 0  # to write records
        self._following: Following | None = None

    @classmethod
    def loading(cls, settings: Settings) -> Self:
        """A state without a guard so far."""
        state = cls.__new__(cls)
        state.settings = settings
        state.metrics = Metrics()
        state.__post_init__()
        return state

    def __getattr__(self, name: str) -> Any:  # called for what is not there
        if name not in _LOADED:
            raise AttributeError(name)
        if self.failed:
            raise Refused(503, "The guard could not be loaded; the server's log says why.")
        raise Refused(503, "The guard is still being loaded: try again soon.", 5.0)

    def open(self, guard: Guard, records: Records, drift: Drift) -> None:
        """Begin to serve a guard; called once, from any thread.

        Args:
            guard: fitted and calibrated.
            records: to write to; the state closes them.
            drift: a detector that was told of nothing yet.

        Raises:
            NotFitted, NotCalibrated, InvalidInput: as ``Engine``.
            RecordsError: if another server has the records.
        """
        records.claim()
        engine = Engine(guard, self.settings)
        following = Following(records, engine.guard_version, drift)
        self._following = following
        self.guard, self.records, self.drift = guard, records, following.drift
        self.metrics.watch(
            engine.calibration,
            engine.guard_version,
            lambda: engine.waiting,
            lambda: following.drift.alarm,
        )
        self.engine = engine

    async def check_ready(self) -> None:
        """Do nothing if images are scored and recorded.

        Raises:
            Refused: 503 if they are not, with the reason.
        """
        if not self.engine.ready:
            raise Refused(503, "The server is about to stop.")
        try:
            await self.briefly(self.records.check_writable)
        except RecordsError as error:
            _log.error("%s", error)
            raise Refused(
                503, "Nothing can be recorded now; the server's log says why.", RECORDS_AGAIN
            ) from None

    @asynccontextmanager
    async def received(
        self, images: Sequence[bytes | Upload]
    ) -> AsyncIterator[list[Upload | Refused]]:
        """Encoded images decoded, each or why it is refused; held while the block runs.

        Raises:
            Refused: 413 or 503 if decoded they are too much.
        """
        limits = self.settings.limits
        claims = await asyncio.gather(*(self.briefly(_claim, one, limits) for one in images))
        pixels = sum(claim for claim in claims if isinstance(claim, int))
        self._pixels.take(pixels)
        try:
            yield await asyncio.gather(
                *(self._decoded(one, claim) for one, claim in zip(images, claims, strict=True))
            )
        finally:
            self._pixels.give(pixels)

    async def score(
        self, uploads: Sequence[Upload | Refused], request: str, *, whole: bool = False
    ) -> list[Scored | Refused]:
        """What the guard says of images, recorded before it is said.

        Args:
            uploads: images; what was refused before stays as it is.
            request: id of the request they came with.
            whole: whether nothing is said and recorded if any image is refused.

        Raises:
            Refused: 503 if the queue is full, or the records cannot be written; that of the first
                image that is refused, with ``whole``, or if all are.
        """
        self._check(uploads, whole)
        good = [upload for upload in uploads if isinstance(upload, Upload)]
        rest = iter(await self.engine.each(good, request))
        results = [next(rest) if isinstance(upload, Upload) else upload for upload in uploads]
        self._check(results, whole)
        scored = [result for result in results if isinstance(result, Scored)]
        pictures = [
            upload.picture
            for upload, result in zip(uploads, results, strict=True)
            if isinstance(upload, Upload) and isinstance(result, Scored)
        ]
        await self.aside(self._record, scored, pictures, self._failures)
        self.metrics.scored(scored)
        self.metrics.refused(len(results) - len(scored))
        return results

    async def aside(self, work: Callable[..., T], *arguments: object) -> T:
        """What some work on the records gives, done in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, lambda: work(*arguments))

    async def briefly(self, work: Callable[..., T], *arguments: object) -> T:
        """What some short work on a request gives, done in a thread that decodes no image.

        Raises:
            Refused: 503 while the guard is loading.
        """
        _ = self.engine  # says so
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: work(*arguments))

    def reset_drift(self) -> None:
        """End a drift alarm, whose cause was dealt with; no record so far counts any more.

        Raises:
            Refused: 503 while the guard is loading.
            RecordsError: if that cannot be recorded.
        """
        images = self.drift.images
        assert self._following is not None, "the drift detector follows the records"
        self._following.reset()
        _log.info("Drift was reset after %d images.", images)

    async def close(self) -> None:
        """Finish what was accepted, and close the records."""
        if "engine" in vars(self):
            await self.engine.close()
            await self.aside(self._close_records)
        self._writer.shutdown()
        self._readers.shutdown()

    async def _decoded(self, image: bytes | Upload, claim: int | Refused) -> Upload | Refused:
        """An image, or why it is refused: that waits for no decoder if its header is enough."""
        if isinstance(claim, Refused):
            return claim
        if isinstance(image, Upload):
            return image
        return await self.engine.aside(_decoded, image, self.settings.limits)

    def _check(self, results: Sequence[Upload | Scored | Refused], whole: bool) -> None:
        """Raise the first refusal if all are refused, or if any is and only the whole is wanted."""
        refusals = [(at, one) for at, one in enumerate(results) if isinstance(one, Refused)]
        if refusals and (whole or len(refusals) == len(results)):
            self.metrics.refused(len(refusals))
            position, first = refusals[0]
            which = f"Image {position} of {len(results)} (from 0): " if len(results) > 1 else ""
            raise Refused(first.status, f"{which}{first}", first.retry_after)

    def _record(self, scored: Sequence[Scored], pictures: Sequence[Any], failures: int) -> None:
        """Record images, unless that failed for others while these waited for their turn."""
        keeps = self.settings.keep_thumbnails or self.settings.keep_images
        if failures != self._failures:
            raise _unrecorded()
        try:
            self.records.add(scored, pictures if keeps else None)
        except Exception as error:
            self._failures += isinstance(error, RecordsError)
            _log.exception("The records cannot be written.")
            raise _unrecorded() from None
        if self._following is not None:
            try:
                self._following.catch_up()
            except Exception:  # what was said stands all the same
                _log.exception("The drift detector could not be told of new records.")

    def _close_records(self) -> None:
        try:
            if self._following is not None:
                self._following.save()
        except Exception:  # read again from the records when the server starts
            _log.exception("The state of the drift detector could not be saved.")
        self.records.close()


def _unrecorded() -> Refused:
    return Refused(
        503,
        "The record of the verdict could not be written, so none is given; the server's log says "
        "why.",
        RECORDS_AGAIN,
    )


def _claim(image: bytes | Upload, limits: Limits) -> int | Refused:
    """How many pixels an image has, by its header, or why it is refused."""
    if isinstance(image, Upload):
        return image.picture.width * image.picture.height
    try:
        return claimed_pixels(image, limits)
    except Refused as refused:
        return refused


def _decoded(image: bytes, limits: Limits) -> Upload | Refused:
    try:
        return decoded(image, limits)
    except Refused as refused:
        return refused
