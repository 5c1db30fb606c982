"""The engine: batches that change no score, a bounded queue, explanations in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neroli import Guard
from neroli.serve.engine import BATCHES_BEFORE_AN_EXPLANATION, Engine, version_of
from neroli.serve.scored import Scored
from neroli.serve.settings import Limits, Settings
from neroli.serve.uploads import Refused, Upload
from networks import colour_loader, trained_colour_network
from serving import colour_guard, colour_pictures, verdicts_of


def uploads(pictures: list[Image.Image]) -> list[Upload]:
    return [Upload(f"{number:032x}", picture) for number, picture in enumerate(pictures)]


def with_engine(
    settings: Settings,
    use: Callable[[Engine], Coroutine[Any, Any, Any]],
    guard: Guard | None = None,
) -> Any:
    """What a use of an engine returns, which is closed behind it."""

    async def run() -> Any:
        engine = Engine(guard or colour_guard(), settings)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


@contextmanager
def before_the_network(hook: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call a hook with every batch that the network is given."""
    model: nn.Module = colour_guard().classifier.model
    handle = model.register_forward_pre_hook(lambda _, inputs: hook(inputs[0]))
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_do_not_depend_on_batching(batch_size: int) -> None:
    pictures = colour_pictures(20)
    sizes: list[int] = []

    async def apart(engine: Engine) -> list[Scored]:
        requests = [engine.score([one], "r") for one in uploads(pictures)]
        return [scored for (scored,) in await asyncio.gather(*requests)]

    with before_the_network(lambda images: sizes.append(len(images))):
        found = with_engine(Settings(batch_size=batch_size, latency=0.5), apart)
    expected = verdicts_of(pictures)
    np.testing.assert_allclose([s.score for s in found], expected["score"], rtol=1e-5)
    np.testing.assert_allclose([s.p_value for s in found], expected["p_value"])
    assert [s.predicted_class for s in found] == expected["predicted_class"].tolist()
    assert [s.is_ood for s in found] == expected["is_ood"].tolist()
    assert sum(sizes) == 20 and max(sizes) <= batch_size
    assert len(sizes) == -(-20 // batch_size)  # they waited for one another


def test_a_record_says_what_was_scored_and_by_whom() -> None:
    guard = colour_guard()
    (found,) = with_engine(Settings(), lambda e: e.score(uploads(colour_pictures(1)), "asked"))
    assert (found.request, found.content) == ("asked", f"{0:032x}")
    assert found.predicted_name == ("blue", "green", "red")[found.predicted_class]
    assert found.threshold == guard.check_calibrated().thresholds[found.predicted_class]
    assert found.guard == version_of(guard) and len(found.guard) == 16


class Blocked:
    """Holds the network until it is released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, images: torch.Tensor) -> None:
        self.reached.set()
        assert self.released.wait(30)


def test_the_queue_takes_a_request_whole_or_not_at_all() -> None:
    blocked = Blocked()

    async def crowd(engine: Engine) -> tuple[list[Scored], list[Scored]]:
        first = asyncio.create_task(engine.score(uploads(colour_pictures(3)), "first"))
        await asyncio.to_thread(blocked.reached.wait, 30)
        with pytest.raises(Refused, match="3 images are waiting, 4 may") as refused:
            await engine.score(uploads(colour_pictures(2)), "too many")
        assert refused.value.status == 503
        assert refused.value.retry_after is not None and refused.value.retry_after >= 1
        last = asyncio.create_task(engine.score(uploads(colour_pictures(1)), "last"))
        await asyncio.sleep(0)
        assert engine.waiting == 4  # nothing of the refused request
        blocked.released.set()
        return await first, await last

    with before_the_network(blocked):
        limits = Limits(images=4, queue=4)
        first, last = with_engine(Settings(latency=0, limits=limits), crowd)
    assert (len(first), len(last)) == (3, 1)


def test_no_image_suffers_for_another_in_its_batch() -> None:
    pictures = [*colour_pictures(3), Image.new("RGB", (8, 8), "white")]

    def fail_on_white(images: torch.Tensor) -> None:
        if bool((images == images.max()).flatten(1).all(1).any()):
            raise RuntimeError("out of memory, say")

    async def score(engine: Engine) -> list[Any]:
        requests = [engine.score([one], "r") for one in uploads(pictures)]
        return await asyncio.gather(*requests, return_exceptions=True)

    with before_the_network(fail_on_white):
        *good, bad = with_engine(Settings(latency=0.5), score)
    assert isinstance(bad, Refused) and bad.status == 422
    assert "memory" not in str(bad)  # that is for the log
    scores = [one.score for (one,) in good]
    np.testing.assert_allclose(scores, verdicts_of(pictures[:3])["score"], rtol=1e-5)


def test_an_image_that_does_not_suit_the_network_is_refused_with_the_reason() -> None:
    odd = uploads([Image.new("RGB", (9, 8)), *colour_pictures(1)])
    refused, scored = with_engine(Settings(), lambda engine: engine.each(odd, "r"))
    assert refused.status == 422 and "is 9x8 pixels after preprocessing" in str(refused)
    assert scored.score == pytest.approx(verdicts_of(colour_pictures(1))["score"][0], rel=1e-5)
    with pytest.raises(Refused, match="is 9x8 pixels after preprocessing") as unexplained:
        with_engine(Settings(), lambda engine: engine.explain(odd[0]))
    assert unexplained.value.status == 422


def test_explanations_wait_for_images_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, order = Blocked(), []
    guard = colour_guard()

    def explain(picture: Image.Image) -> str:
        order.append("explanation")
        return "explained"

    def seen(images: torch.Tensor) -> None:
        blocked(images)
        order.append("batch")

    monkeypatch.setattr(guard, "explain", explain)

    async def use(engine: Engine) -> None:
        pictures = uploads(colour_pictures(9))
        first = asyncio.create_task(engine.score(pictures[:1], "r"))
        await asyncio.to_thread(blocked.reached.wait, 30)
        scores = [asyncio.create_task(engine.score([one], "r")) for one in pictures[1:]]
        explained = asyncio.create_task(engine.explain(pictures[0]))
        while len(engine._queue) < 8:
            await asyncio.sleep(0.01)
        blocked.released.set()
        await asyncio.gather(first, explained, *scores)

    with before_the_network(seen):
        with_engine(Settings(batch_size=1), use)
    assert order.count("batch") == 9
    assert order.index("explanation") == BATCHES_BEFORE_AN_EXPLANATION


def test_only_so_many_explanations_may_wait() -> None:
    blocked = Blocked()

    async def use(engine: Engine) -> None:
        (upload,) = uploads(colour_pictures(1))
        first = asyncio.create_task(engine.explain(upload))
        await asyncio.to_thread(blocked.reached.wait, 30)
        with pytest.raises(Refused, match="Too many explanations") as refused:
            await engine.explain(upload)
        assert refused.value.status == 503
        blocked.released.set()
        assert (await first).predicted_class in range(3)

    with before_the_network(blocked):
        with_engine(Settings(limits=Limits(explanations=1)), use)


def test_closing_finishes_what_was_accepted_and_accepts_no_more() -> None:
    async def run() -> tuple[list[Scored], Engine]:
        engine = Engine(colour_guard(), Settings(latency=60, batch_size=64))
        accepted = asyncio.create_task(engine.score(uploads(colour_pictures(5)), "r"))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(Refused, match="about to stop") as refused:
            await engine.score(uploads(colour_pictures(1)), "late")
        assert refused.value.status == 503
        return await accepted, engine

    scored, engine = asyncio.run(run())
    assert len(scored) == 5 and not engine.ready


def test_a_guard_keeps_its_version_on_disk_and_has_another_once_calibrated_anew(
    tmp_path: Path,
) -> None:
    guard = colour_guard()
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    assert version_of(loaded) == version_of(guard)
    loaded.calibrate(colour_loader(110, 3, labels=False))
    assert version_of(loaded) != version_of(guard)
