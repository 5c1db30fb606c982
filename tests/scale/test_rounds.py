"""Every detector, fitted from statistics that each shard has written in rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from batteries import create
from neroli import Activations, LinearHead, fit
from neroli.detectors import Detector, names
from neroli.errors import ArtefactError, NeroliWarning
from neroli.explain.reference import Reference
from neroli.scale.gathering import GatheringStore
from neroli.scale.job import FitOptions, Job
from neroli.scale.partition import Shard, named, part_path, shards
from neroli.scale.rounds import Passes, PassGathered, Remaining, Round
from neroli.store import ActivationStore, StoreWriter
from neroli.taps import NOTHING

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")
COUNT = 3
_PATHS = ("train", "calibration", "out")


def head_only() -> list[Detector]:
    return [detector for detector in map(create, names()) if detector.requires == NOTHING]


@pytest.fixture
def job(training: Activations, head: LinearHead, tmp_path: Path) -> Job:
    """A job whose parts lie in ``tmp_path``."""
    for shard in shards(COUNT):
        rows = shard.positions(len(training))
        with StoreWriter(part_path(tmp_path, "training", shard), head, str(shard)) as writer:
            writer.append(training[rows.start : rows.stop])
    with StoreWriter(tmp_path / "training", head, "all") as writer:
        writer.append(training)
    # of the options only that they are the same everywhere matters here
    options = dict.fromkeys(FitOptions.model_fields) | dict.fromkeys(_PATHS, Path())
    return Job(
        shards=COUNT,
        training_images=len(training),
        options=FitOptions.model_construct(**options),  # type: ignore[arg-type]
    )


def assert_equal(one: list[Detector], other: list[Detector]) -> None:
    for detector, same in zip(one, other, strict=True):
        expected, found = detector.state(), same.state()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            message = f"{detector.name} {name}"
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-9, msg=message)


def test_all_detectors_together_learn_in_rounds_what_they_learn_from_one_source(
    job: Job, training: Activations, head: LinearHead, tmp_path: Path
) -> None:
    detectors = head_only()
    assert len(detectors) > 20
    references = [Reference(detectors[0], examples=20, by_activation=True) for _ in range(2)]
    single = fit([*head_only(), references[0]], training, head)  # type: ignore[type-var]
    for _ in range(100):
        for shard in shards(COUNT):
            gather = Round(Passes(tmp_path, job), tmp_path, shard).gathered
            store = GatheringStore(part_path(tmp_path, "training", shard), gather)
            learners = [*head_only(), references[1]]
            try:
                fit(learners, store, head)  # type: ignore[type-var]
            except PassGathered:
                continue
            assert_equal(learners[:-1], single[:-1])  # type: ignore[arg-type]
            state, expected = (reference.state for reference in reversed(references))
            assert state.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(state[name], expected[name])
            return
    raise AssertionError("it never ends")


def test_passes_that_were_not_gathered_in_rounds_are_made_in_one_process(
    job: Job, training: Activations, head: LinearHead, tmp_path: Path
) -> None:
    """None, the first, and the first with the second on one shard alone."""
    single = fit([create("nero"), create("line")], training, head)
    for done in [[], shards(COUNT), shards(COUNT)[:1]]:
        for shard in done:
            part = part_path(tmp_path, "training", shard)
            gather = Round(Passes(tmp_path, job), tmp_path, shard).gathered
            with pytest.raises(PassGathered):
                fit([create("nero"), create("line")], GatheringStore(part, gather), head)
        store = ActivationStore(tmp_path / "training")
        remaining = Remaining(Passes(tmp_path, job), store).gathered
        found = fit([create("nero"), create("line")], GatheringStore(store.path, remaining), head)
        assert_equal(found, single)


def truncated(content: bytes) -> bytes:
    return content[:-9]


def one_bit_changed(content: bytes) -> bytes:
    """A bit of a tensor's values, which no format notices."""
    return content[:-20] + bytes([content[-20] ^ 64]) + content[-19:]


@pytest.mark.parametrize("damage", [truncated, one_bit_changed])
@pytest.mark.parametrize(("damaged", "file"), [(1, "shard-3"), (2, "shard-3"), (1, "merged")])
def test_passes_of_damaged_files_are_made_in_one_process(
    damaged: int,
    file: str,
    damage: Callable[[bytes], bytes],
    job: Job,
    training: Activations,
    head: LinearHead,
    tmp_path: Path,
) -> None:
    single = fit(head_only(), training, head)
    for shard in shards(COUNT) * 2:
        gather = Round(Passes(tmp_path, job), tmp_path, shard).gathered
        with pytest.raises(PassGathered):
            fit(head_only(), GatheringStore(tmp_path / "training", gather), head)
    folder = tmp_path / f"pass-{damaged}"
    path = folder / f"{file}.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    if file != "merged":
        (folder / "merged.safetensors").unlink(missing_ok=True)
    remaining = Remaining(Passes(tmp_path, job), ActivationStore(tmp_path / "training")).gathered
    with pytest.warns(NeroliWarning, match=f"are damaged .*: pass {damaged} and those"):
        found = fit(head_only(), GatheringStore(tmp_path / "training", remaining), head)
    assert_equal(found, single)


def test_what_was_gathered_on_other_images_is_refused(
    job: Job, training: Activations, head: LinearHead, tmp_path: Path
) -> None:
    shard = Shard(1, COUNT)
    part = part_path(tmp_path, "training", shard)

    def gather_on(shard: Shard) -> None:
        gather = Round(Passes(tmp_path, job), tmp_path, shard).gathered
        fit([create("nero")], GatheringStore(part, gather), head)

    for each in shards(COUNT):
        with pytest.raises(PassGathered):
            gather_on(each)
    with StoreWriter(part, head, "of other images") as writer:
        writer.append(training[:9])
    with pytest.raises(ArtefactError, match=r"shard-1.* are of other images: delete"):
        gather_on(shard)


def test_shards_are_neighbours_that_cover_all_positions() -> None:
    for count in (0, 1, 7, 100):
        for of in (1, 3, 8):
            together = [p for shard in shards(of) for p in shard.positions(count)]
            assert together == list(range(count))
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"
    assert named(shards(3)[:1]) == "Shard 1 of 3"
    assert named(shards(30)) == "Shards 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more of 30"
