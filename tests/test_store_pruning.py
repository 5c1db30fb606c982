"""Pruning: what stays is as it was, what goes is gone, the store it is of is untouched."""

from pathlib import Path

import pytest
import torch

from conftest import random_activations, write_pictures
from neroli import Activations, ActivationStore, Classifier, LinearHead, extract
from neroli import store as store_module
from neroli.data.folders import ImageFolder
from neroli.errors import InvalidInput
from neroli.store import StoreWriter
from neroli.store_checking import verified
from neroli.store_pruning import pruned
from neroli.taps import Requirements, Tap
from networks import COLOURS

TAPPED = Requirements(taps=(Tap("0", "max"), Tap("2", "mean")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 10)


@pytest.fixture
def store(classifier: Classifier, tmp_path: Path) -> ActivationStore:
    images = tmp_path / "images"
    write_pictures(images, 40, seed=1)
    (images / "red" / "copy.png").write_bytes((images / "blue" / "0000.png").read_bytes())
    (images / "red" / "z.png").write_bytes(b"broken")
    folder = ImageFolder(images).labelled({name: i for i, name in enumerate(COLOURS)})
    folder.groups = ["someone"] * len(folder)
    return extract(classifier, folder, tmp_path / "store", batch_size=5, requires=TAPPED)


def test_only_the_named_columns_go(store: ActivationStore, tmp_path: Path) -> None:
    before = store.load()
    smaller = pruned(store, tmp_path / "a", drop=["taps/0:max", "groups"])
    after = smaller.load()
    assert list(after.taps) == ["2:mean"]
    assert smaller.groups() is None
    assert torch.equal(after.features, before.features)
    assert torch.equal(after.taps["2:mean"], before.taps["2:mean"])
    assert after.ids == before.ids
    assert smaller.failures == store.failures
    assert smaller.ends == store.ends
    assert smaller.origin == store.origin
    assert verified(smaller.path).problems == ()
    assert not pruned(store, tmp_path / "b", drop=["taps"]).load().taps
    assert set(store.load().taps) == {"0:max", "2:mean"}


def test_the_names_of_unreadable_images_can_go(store: ActivationStore, tmp_path: Path) -> None:
    assert [failure.name for failure in store.failures] == ["red/z.png"]
    smaller = pruned(store, tmp_path / "a", drop=["failures"])
    assert smaller.failures == []
    assert all(b"z.png" not in path.read_bytes() for path in smaller.path.iterdir())
    assert len(smaller) == len(store)


def test_of_copies_the_first_stays(store: ActivationStore, tmp_path: Path) -> None:
    smaller = pruned(store, tmp_path / "a", copies=False)
    ids = store.load().ids
    assert ids is not None
    assert smaller.load().ids == tuple(dict.fromkeys(ids))
    assert len(smaller) == len(store) - 1
    assert smaller.digests().shape == (len(smaller), 16)


def test_rows_that_are_not_finite_go_and_images_without_hashes_are_no_copies(
    head: LinearHead, tmp_path: Path
) -> None:
    with StoreWriter(tmp_path / "s", head, "key") as writer:
        for seed in range(3):
            batch = random_activations(head, 10, seed)
            features = batch.features.clone()
            features[seed : seed + 2, 0] = float("nan")
            features[:, 1] = float("inf") if seed == 1 else 0
            writer.append(Activations(features, batch.logits, batch.labels, batch.ids))
    kept = pruned(ActivationStore(tmp_path / "s"), tmp_path / "a", not_finite=False, copies=False)
    assert kept.load().ids == tuple(
        f"image-{seed}-{i}" for seed in (0, 2) for i in range(10) if i not in (seed, seed + 1)
    )
    assert kept.ends == [10, 20, 30]
    kept.load().check_finite()


def test_pruning_to_float16_is_extracting_in_float16(
    classifier: Classifier, store: ActivationStore, tmp_path: Path
) -> None:
    half = pruned(store, tmp_path / "half", dtype="float16")
    direct = extract(classifier, tmp_path / "images", tmp_path / "d", batch_size=5, dtype="float16")
    torch.testing.assert_close(half.load().features, direct.load().features, rtol=1e-3, atol=1e-6)
    size = sum(half.shards[0].tensor(name).nbytes for name in ("features", "logits"))
    whole = sum(store.shards[0].tensor(name).nbytes for name in ("features", "logits"))
    assert 2 * size == whole


def test_the_same_pruning_is_not_done_twice(store: ActivationStore, tmp_path: Path) -> None:
    first = pruned(store, tmp_path / "a", drop=["taps"])
    written = first.shards[0].path.stat().st_mtime_ns
    again = pruned(store, tmp_path / "a", drop=["taps"])
    assert again.shards[0].path.stat().st_mtime_ns == written
    assert pruned(store, tmp_path / "a", drop=["labels"]).key != first.key


def test_what_cannot_be_pruned_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    for word in ("features", "logits", "digests"):
        with pytest.raises(InvalidInput, match=f"cannot do without '{word}'"):
            pruned(store, tmp_path / "a", drop=[word])
    with pytest.raises(InvalidInput, match="no column 'tap' to drop: it has digests, features"):
        pruned(store, tmp_path / "a", drop=["tap"])
    with pytest.raises(InvalidInput, match="no column 'extras'"):
        pruned(store, tmp_path / "a", drop=["extras"])
    with pytest.raises(InvalidInput, match="is the store to prune"):
        pruned(store, store.path, drop=["taps"])
    assert not (tmp_path / "a").exists()
