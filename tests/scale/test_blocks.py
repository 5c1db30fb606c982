"""Blocks of a source, and what an actor says of them, without a cluster."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import write_pictures
from neroli.data.opening import open_images
from neroli.data.pictures import Pictures
from neroli.errors import ArtefactError, EngineError, InvalidInput
from neroli.files import locked
from neroli.scale import ray_work, watchdog
from neroli.scale.blocks import BlockFolder, Blocks, SharedImages
from neroli.scale.ray_cluster import actors_that_fit
from neroli.scale.ray_work import Actor, wait_until_free
from neroli.scale.watchdog import watched


@pytest.mark.parametrize(("images", "size"), [(1, 1), (10, 3), (9, 3), (5, 100)])
def test_blocks_hold_every_position_once_and_in_order(images: int, size: int) -> None:
    blocks = Blocks(images, size)
    ranges = [blocks[number] for number in range(len(blocks))]
    assert [position for block in ranges for position in block] == list(range(images))
    assert {len(block) for block in ranges[:-1]} <= {size}
    with pytest.raises(InvalidInput, match="1 image or more, got 0"):
        Blocks(images, 0)


def test_blocks_of_another_run_are_dropped_and_those_of_the_same_kept(tmp_path: Path) -> None:
    path = tmp_path / "blocks"
    for key, before, after in [("a", [], ["000000"]), ("a", ["000000"], ["000001"]), ("b", [], [])]:
        with BlockFolder(path, key):
            assert [p.name for p in path.glob("0*")] == before
            for name in after:
                (path / name).mkdir()
            shown = sorted(p.name for p in path.glob("0*"))
        assert shown == [*before, *after]


def test_a_folder_of_blocks_has_one_user_and_holds_nothing_else(tmp_path: Path) -> None:
    with (
        BlockFolder(tmp_path / "blocks", "key"),
        pytest.raises(ArtefactError, match="Another process is writing the blocks"),
        BlockFolder(tmp_path / "blocks", "key"),
    ):
        pass
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds other files"):
        BlockFolder(tmp_path, "key")
    assert (tmp_path / "notes.txt").exists()


def test_another_machine_sees_the_same_labelled_images_or_says_so(tmp_path: Path) -> None:
    opened = open_images(write_pictures(tmp_path / "train", 12, seed=1))
    assert isinstance(opened, Pictures)
    labelled = opened.labelled({"blue": 2, "green": 0, "red": 1})
    shared = SharedImages.of(opened, labelled, tmp_path / "train")
    seen = shared.open("far")
    assert (seen.names, seen.labels) == (labelled.names, labelled.labels)
    assert (
        SharedImages.of(opened, opened.unlabelled(), tmp_path / "train").open("far").labels is None
    )
    (tmp_path / "train" / "red" / "0002.png").unlink()
    with pytest.raises(InvalidInput, match="The machine 'far' sees other images"):
        shared.open("far")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="The machine 'far' does not see .*file system"):
        shared.open("far")


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "fit"),
    [
        ([(1, 0)], 1, 0, 0),  # nothing would be left for reading
        ([(2, 0)], 1, 0, 1),
        ([(8, 0)], 1, 0, 7),
        ([(8, 0)], 3, 0, 2),
        ([(4, 0), (4, 0), (4, 0)], 3, 0, 3),  # not four: an actor is on one node
        ([(4, 0), (4, 0)], 4, 0, 1),
        ([(16, 4)], 1, 1, 4),
        ([(16, 2), (16, 0)], 1, 0.4, 4),  # two share a GPU, none is on two
        ([(2, 8)], 1, 1, 1),
        ([(64, 8)], 4, 2, 4),
        ([], 1, 0, 0),
    ],
)
def test_as_many_actors_are_started_as_fit_beside_a_free_cpu(
    nodes: list[tuple[int, int]], cpus: int, gpus: float, fit: int
) -> None:
    resources = [{"CPU": float(cpu), "GPU": float(gpu)} for cpu, gpu in nodes]
    assert actors_that_fit(resources, cpus, gpus) == fit


def test_items_come_through_and_so_do_errors() -> None:
    def failing() -> object:
        yield 1
        raise ValueError("of the source")

    assert list(watched(range(5), 60, AssertionError)) == [0, 1, 2, 3, 4]
    items = watched(failing(), 60, AssertionError)
    assert next(items) == 1
    with pytest.raises(ValueError, match="of the source"):
        next(items)


def test_a_wait_that_is_too_long_ends() -> None:
    never = threading.Event()

    def stuck() -> object:
        yield 1
        never.wait()

    items = watched(stuck(), 0.2, lambda: EngineError("nothing came"))
    assert next(items) == 1
    with pytest.raises(EngineError, match="nothing came"):
        next(items)
    never.set()


def test_a_wait_ends_as_soon_as_nothing_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY", 0.01)
    never = threading.Event()

    def stuck() -> Iterator[int]:
        never.wait()
        yield 1

    looked: list[int] = []

    def look() -> None:
        looked.append(1)
        if len(looked) == 3:
            raise EngineError("the head is gone")

    with pytest.raises(EngineError, match="the head is gone"):
        next(watched(stuck(), 600, AssertionError, look))
    never.set()


class Counting:
    """Work that does nothing but what the test wants."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error = folder, error
        self.blocks = Blocks(10, 4)
        self.loaded: list[str] = []
        self.worked: list[int] = []

    def is_done(self, number: int) -> bool:
        return False

    def ready(self, machine: str) -> object:
        self.loaded.append(machine)
        return self.work

    def work(self, number: int) -> None:
        self.worked.append(number)
        if self.error is not None:
            raise self.error


def test_an_actor_loads_the_model_once(tmp_path: Path) -> None:
    work = Counting(tmp_path)
    actor = Actor(work, [])
    rows = [actor({"block": number}) for number in (2, 0, 1)]
    assert rows == [{"block": number, "error": "", "died": ""} for number in (2, 0, 1)]
    assert (len(work.loaded), work.worked) == (1, [2, 0, 1])
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_says_which_images_and_why(tmp_path: Path) -> None:
    row = Actor(Counting(tmp_path, RuntimeError("CUDA out of memory")), [])({"block": 1})
    assert row["error"].startswith("Block 1 (images 4 to 7) failed on ")
    assert "with RuntimeError: CUDA out of memory (" in row["error"]
    row = Actor(Counting(tmp_path, InvalidInput("Said well.")), [])({"block": 1})
    assert row["error"] == "Said well."


def test_a_block_that_kills_every_process_is_given_up(tmp_path: Path) -> None:
    with BlockFolder(tmp_path, "key"):
        (tmp_path / "000001.tries").write_text("alpha\nbeta\n")
    work = Counting(tmp_path)
    assert Actor(work, [])({"block": 1}) == {"block": 1, "error": "", "died": "alpha, beta"}
    (tmp_path / "000001.tries").write_text("alpha\nbeta\nalpha\n")
    row = Actor(work, [])({"block": 1})
    assert "Block 1 (images 4 to 7) was tried 3 times" in row["error"]
    assert "on alpha, beta, alpha: perhaps for want of memory" in row["error"]
    assert work.worked == [1]
    with BlockFolder(tmp_path, "key"):  # the next run tries again
        assert not list(tmp_path.glob("*.tries"))


def test_a_machine_that_does_not_see_the_folder_of_blocks_says_so(tmp_path: Path) -> None:
    row = Actor(Counting(tmp_path / "absent"), [])({"block": 0})
    assert "does not see" in row["error"] and "absent" in row["error"]


def test_a_block_waits_for_the_process_that_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path, "block"):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    monkeypatch.setattr(ray_work, "_WAIT_FOR_LOCK", 0.0)
    with pytest.raises(ArtefactError, match="Another process is writing the block"):
        wait_until_free(tmp_path)
    monkeypatch.setattr(ray_work, "_WAIT_FOR_LOCK", 60.0)
    threading.Timer(0.3, release.set).start()
    wait_until_free(tmp_path)
    assert release.is_set()
    thread.join()
