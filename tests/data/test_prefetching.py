"""Batches are made ready while the network computes: in order, a few at a time."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier
from neroli.data.folders import ImageFolder
from neroli.data.prefetching import copier, prefetched
from neroli.data.sources import ImageLoader
from neroli.extraction import stream
from networks import trained_colour_network


def test_items_come_in_order() -> None:
    assert list(prefetched(iter(range(50)), depth=3)) == list(range(50))
    assert list(prefetched(iter(()))) == []


def test_the_next_is_made_while_the_caller_works() -> None:
    second_begun = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second_begun.set()
        yield 1

    for item in prefetched(items()):
        if item == 0:
            assert second_begun.wait(10)  # without asking for it


def test_no_more_are_made_than_memory_is_meant_to_hold() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for item in range(30):
            made += 1
            yield item

    ahead = [made - item for item in prefetched(items(), depth=2)]
    assert max(ahead) <= 2 + 2  # those ready, the caller's, and one being made


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1)
        raise ValueError("the third")

    ahead = prefetched(items())
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(ahead)


def test_stopping_early_closes_what_makes_them() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    ahead = prefetched(items())
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set() and threading.active_count() == before


def test_copies_on_the_cpu_are_the_images_themselves() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert copier(torch.device("cpu"))(images) is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_the_cpu() -> None:
    batches = [torch.randn(16, 3, 64, 64) for _ in range(20)]
    copied = copier(torch.device("cuda"))
    found = [there.square().sum(0).cpu() for there in prefetched(map(copied, batches))]
    for images, squares in zip(batches, found, strict=True):
        torch.testing.assert_close(squares, images.square().sum(0))


def test_pictures_are_read_ahead_and_a_users_loader_in_the_users_thread(pictures: Path) -> None:
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    folder = ImageFolder(pictures / "new")
    expected = torch.cat([b.images for b in folder.batches(COLOUR_PREPROCESSING, 16)])
    threads: list[threading.Thread] = []

    class Noting(list):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[torch.Tensor]:
            threads.append(threading.current_thread())
            return super().__iter__()

    found = {
        name: [
            batch.activations.features for batch in stream(classifier, source) if batch.activations
        ]
        for name, source in (("files", folder), ("loader", ImageLoader(Noting(expected.split(16)))))
    }
    assert set(threads) == {threading.current_thread()}
    torch.testing.assert_close(torch.cat(found["files"]), torch.cat(found["loader"]))
