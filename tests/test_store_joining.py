"""Joining stores: the same as one extraction of all the images, or one sentence."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import random_activations, write_pictures
from neroli import ActivationStore, Classifier, LinearHead, extract
from neroli import store as store_module
from neroli.data.folders import ImageFolder
from neroli.errors import ArtefactError, InvalidInput
from neroli.execution import Execution
from neroli.files import link
from neroli.store import Origin, StoreWriter
from neroli.store_files import shard_path
from neroli.store_joining import joined
from neroli.taps import NOTHING, Requirements, Tap
from networks import COLOURS

TAPPED = Requirements(taps=(Tap("0", "max"),))
KEY = "of the whole"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    write_pictures(tmp_path / "images", 45, seed=1)
    for name in ("green/0004.png", "red/0042.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"broken")
    folder = ImageFolder(tmp_path / "images").labelled({name: i for i, name in enumerate(COLOURS)})
    folder.groups = [f"patient {i // 3}" for i in range(len(folder))]
    return folder


def extracted(
    classifier: Classifier,
    folder: ImageFolder,
    path: Path,
    rows: range,
    requires: Requirements = TAPPED,
) -> Path:
    extract(classifier, folder.subset(rows), path, batch_size=4, requires=requires)
    return path


@pytest.fixture
def parts(classifier: Classifier, folder: ImageFolder, tmp_path: Path) -> list[Path]:
    ends = [0, 11, 30, len(folder)]
    return [
        extracted(classifier, folder, tmp_path / f"part-{i}", range(ends[i], ends[i + 1]))
        for i in range(3)
    ]


def assert_same(store: ActivationStore, whole: ActivationStore) -> None:
    one, other = store.load(), whole.load()
    assert one.ids == other.ids
    assert one.labels is not None and other.labels is not None
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.features, other.features)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(dict(one.taps), dict(other.taps))
    assert one.taps
    assert torch.equal(store.digests(), whole.digests())
    groups, expected = store.groups(), whole.groups()
    assert groups is not None and expected is not None and torch.equal(groups, expected)
    assert store.failures == whole.failures
    assert len(whole.failures) == 2
    assert store.origin == whole.origin
    assert torch.equal(store.head.weight, whole.head.weight)


def test_joined_parts_are_the_store_of_one_extraction(
    classifier: Classifier, folder: ImageFolder, parts: list[Path], tmp_path: Path
) -> None:
    store = joined(parts, tmp_path / "joined", KEY)
    whole = extract(classifier, folder, tmp_path / "whole", batch_size=4, requires=TAPPED)
    assert store.key == KEY
    assert_same(store, whole)
    assert store.ends[-1] == len(folder)
    again = joined([joined(parts[:2], tmp_path / "two", "x").path, parts[2]], tmp_path / "y", "z")
    assert_same(again, whole)  # what was joined can be joined


def test_the_files_are_shared_and_outlive_the_parts(parts: list[Path], tmp_path: Path) -> None:
    store = joined(parts, tmp_path / "joined", KEY)
    assert store.shards[0].path.stat().st_ino == shard_path(parts[0], 0).stat().st_ino
    before = store.load().features
    for part in parts:
        for file in part.iterdir():
            file.unlink()
    assert torch.equal(joined(parts, tmp_path / "joined", KEY).load().features, before)


def test_where_files_cannot_be_shared_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "a").write_bytes(b"content")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert not (tmp_path / "a").samefile(tmp_path / "b")


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_joining_is_no_store_and_is_done_again(
    classifier: Classifier,
    folder: ImageFolder,
    parts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    path, links = tmp_path / "joined", os.link
    left = after

    def dying(source: Any, target: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        links(source, target)

    monkeypatch.setattr(os, "link", dying)
    with pytest.raises(KeyboardInterrupt):
        joined(parts, path, KEY)
    monkeypatch.setattr(os, "link", links)
    with pytest.raises(ArtefactError, match="incomplete"):
        ActivationStore(path)
    writer = StoreWriter(path, classifier.head, KEY)
    position = writer.position  # where an extraction of the same key would go on
    writer._lock.close()
    ends = [ActivationStore(part).ends for part in parts]
    assert position == [0, *ends[0], *(ends[0][-1] + end for end in ends[1])][after]
    whole = extract(classifier, folder, tmp_path / "whole", batch_size=4, requires=TAPPED)
    assert_same(joined(parts, path, KEY), whole)


def test_extraction_goes_on_behind_what_was_joined(
    classifier: Classifier, folder: ImageFolder, parts: list[Path], tmp_path: Path
) -> None:
    whole = extract(classifier, folder, tmp_path / "whole", batch_size=4, requires=TAPPED)
    store = joined(parts, tmp_path / "joined", whole.key)
    shard_path(store.path, 2).unlink()  # the first of the second part
    resumed = extract(classifier, folder, store.path, batch_size=4, requires=TAPPED)
    assert resumed.shards[0].path.samefile(shard_path(parts[0], 0))
    assert_same(resumed, whole)


def test_a_store_at_the_path_is_replaced_only_if_it_is_another(
    parts: list[Path], head: LinearHead, tmp_path: Path
) -> None:
    path = tmp_path / "joined"
    with StoreWriter(path, head, "another") as writer:
        for _ in range(12):
            writer.append(random_activations(head, 10))
    count = len(joined(parts, path, KEY))
    assert count == sum(len(ActivationStore(part)) for part in parts)
    assert len(joined([], path, KEY)) == count


def test_a_part_without_readable_images_adds_its_failures(
    classifier: Classifier, folder: ImageFolder, parts: list[Path], tmp_path: Path
) -> None:
    origin = ActivationStore(parts[0]).origin
    names = [folder.names.index("green/0004.png")]
    with StoreWriter(tmp_path / "broken", classifier.head, "b", origin) as writer:
        for batch in folder.subset(names).batches(classifier.preprocessing, 4):
            writer.append(None, batch)
    store = joined([tmp_path / "broken", *parts], tmp_path / "joined", KEY)
    assert store.failures[0].name == "green/0004.png"
    assert len(store.failures) == 3
    assert store.has_labels
    assert store.ends[-1] == len(folder) + 1


def test_parts_of_different_kinds_are_refused(
    classifier: Classifier, folder: ImageFolder, parts: list[Path], head: LinearHead, tmp_path: Path
) -> None:
    def refused(part: Path, match: str) -> None:
        with pytest.raises(InvalidInput, match=match):
            joined([parts[0], part], tmp_path / "joined", KEY)
        assert not (tmp_path / "joined").exists()

    def part(name: str, origin: Origin | None, who: LinearHead) -> Path:
        with StoreWriter(tmp_path / name, who, "k", origin) as writer:
            writer.append(random_activations(who, 10))
        return tmp_path / name

    origin = ActivationStore(parts[0]).origin
    assert origin is not None
    refused(part("a", None, head), "different classifiers")
    refused(part("b", Origin("x", origin.head_name, origin.content), head), "classifiers")
    moved = Origin(origin.weights_hash, "fc", origin.content)
    refused(part("c", moved, head), "different heads, '.*' and 'fc'")
    tensors = Origin(origin.weights_hash, origin.head_name, "tensor")
    refused(part("d", tensors, head), "hashes of the file and the tensor")
    refused(part("e", origin, head), "different heads: join")
    plain = extracted(classifier, folder, tmp_path / "f", range(5), NOTHING)
    refused(plain, r"column 'taps/0:max' \(F32 \[\d+\] and absent\)")
    refused(part("g", origin, classifier.head), "column 'features' .F32 .* and F64")
    classifier.execution = Execution("bfloat16")
    half = extracted(classifier, folder, tmp_path / "h", range(5))
    refused(half, r"different ways \(bfloat16; float32\)")
    classifier.class_names = ["a", "b", "c"]
    other = extracted(classifier, folder, tmp_path / "i", range(5))
    refused(other, "of different preprocessing, input shapes or class names: join")


def test_parts_that_are_missing_incomplete_or_the_result_are_refused(
    classifier: Classifier, parts: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="no stores to join"):
        joined([], tmp_path / "joined", KEY)
    with pytest.raises(InvalidInput, match="is one of the stores to join"):
        joined(parts, parts[1], KEY)
    shard_path(parts[2], 0).unlink()
    with pytest.raises(ArtefactError, match="number of shards.*part-2.*is 1 instead of 2"):
        joined(parts, tmp_path / "joined", KEY)
    with pytest.raises(ArtefactError, match="no activation store"):
        joined([tmp_path / "none"], tmp_path / "joined", KEY)
    assert not (tmp_path / "joined").exists()
