"""Extraction and the store: nothing lost, nothing twice, resumed where it stopped."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from conftest import COLOUR_PREPROCESSING, random_activations, write_pictures
from neroli import ActivationStore, Classifier, LinearHead, extract, store_files
from neroli import store as store_module
from neroli.data.folders import ImageFolder
from neroli.data.opening import as_source
from neroli.errors import ArtefactError, InvalidInput, NotEnoughImages
from neroli.extraction import store_key
from neroli.files import digest
from neroli.store import Origin, StoreWriter
from neroli.taps import Requirements, Tap
from networks import COLOURS, colour_images, colour_tensors, trained_colour_network


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    write_pictures(tmp_path / "images", 45, seed=1)
    (tmp_path / "images" / "green" / "0004.png").write_bytes(b"broken")
    return ImageFolder(tmp_path / "images").labelled({name: i for i, name in enumerate(COLOURS)})


def test_a_store_holds_what_the_classifier_computes(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path, small_shards: None
) -> None:
    store = extract(classifier, folder, tmp_path / "store", batch_size=7)
    paths = [tmp_path / "images" / name for name in folder.names]
    good = [i for i, path in enumerate(paths) if path.read_bytes() != b"broken"]
    direct = classifier([paths[i] for i in good])
    loaded = store.load()
    assert len(store) == len(loaded) == 44
    torch.testing.assert_close(loaded.features, direct.features)
    torch.testing.assert_close(loaded.logits, direct.logits)
    assert loaded.ids == tuple(digest(paths[i].read_bytes()).hex() for i in good)
    assert loaded.labels is not None and folder.labels is not None
    assert loaded.labels.tolist() == [folder.labels[i] for i in good]
    assert [failure.name for failure in store.failures] == ["green/0004.png"]
    assert torch.equal(store.head.weight, classifier.head.weight)
    assert store.digests().shape == (44, 16)
    assert sum(len(batch) for batch in store.batches(4)) == 44


class Interrupted(Exception):
    pass


class DiesAfter:
    """A source that fails after some batches, and records where it was asked to begin."""

    def __init__(self, source: ImageFolder, batches: int | None) -> None:
        self.source, self.limit, self.starts = source, batches, list[int]()
        self.size = source.size
        self.content = source.content

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def batches(
        self, preprocessing: Any, batch_size: int, start: int = 0, shape: Any = None
    ) -> Iterator[Any]:
        self.starts.append(start)
        batches = self.source.batches(preprocessing, batch_size, start, shape)
        for number, batch in enumerate(batches):
            if number == self.limit:
                raise Interrupted
            yield batch


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_an_interrupted_extraction_goes_on_where_it_stopped(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path, small_shards: None, batches: int
) -> None:
    path = tmp_path / "store"
    with pytest.raises(Interrupted):
        extract(classifier, DiesAfter(folder, batches), path, batch_size=7)
    with pytest.raises(ArtefactError, match="incomplete"):
        ActivationStore(path)
    again = DiesAfter(folder, None)
    resumed = extract(classifier, again, path, batch_size=7)
    assert again.starts[-1] == 7 * batches
    whole = extract(classifier, folder, tmp_path / "other", batch_size=7)
    torch.testing.assert_close(resumed.load().features, whole.load().features)
    assert resumed.load().ids == whole.load().ids
    assert [f.name for f in resumed.failures] == [f.name for f in whole.failures]
    assert torch.equal(resumed.digests(), whole.digests())


def test_a_complete_store_is_used_again_only_for_the_same_images_and_classifier(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    extract(classifier, folder, path)

    def extracted_anew(source: ImageFolder, who: Classifier) -> bool:
        shard = path / "shard-000000.safetensors"
        before = shard.stat().st_mtime_ns
        extract(who, source, path)
        return shard.stat().st_mtime_ns != before

    assert not extracted_anew(folder, classifier)
    unlabelled = ImageFolder(tmp_path / "images")
    assert extracted_anew(unlabelled, classifier)
    other = trained_colour_network()
    other[6].bias.data += 1
    changed = Classifier(other, preprocessing=classifier.preprocessing)
    assert extracted_anew(unlabelled, changed)


def test_the_key_knows_weights_preprocessing_head_and_images(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path
) -> None:
    def key(weights: str = "w", head: str = "fc", **more: Any) -> str:
        who = Classifier(classifier.model, preprocessing=more.get("how", COLOUR_PREPROCESSING))
        source, requires = more.get("source", folder), more.get("requires", Requirements())
        return store_key(Origin(weights, head, "file"), who, source, requires.kept)

    assert key() == key()
    some = ImageFolder(tmp_path / "images" / "red")
    tapped = Requirements(taps=(Tap("0", "max"),))
    keys = {key(), key(weights="x"), key(head="y"), key(how=None), key(source=some)}
    assert len(keys | {key(requires=tapped)}) == 6
    loader = as_source(DataLoader(TensorDataset(*colour_tensors(4))))
    assert key(source=loader) != key(source=loader)


def test_a_damaged_shard_is_found_and_extracted_again(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path, small_shards: None
) -> None:
    path = tmp_path / "store"
    whole = extract(classifier, folder, path, batch_size=7).load()
    shard = path / "shard-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(ArtefactError, match="shard-000001.safetensors' is damaged"):
        ActivationStore(path)
    again = DiesAfter(folder, None)
    resumed = extract(classifier, again, path, batch_size=7)
    assert again.starts[-1] == 14  # behind the one whole shard before it
    torch.testing.assert_close(resumed.load().features, whole.features)


def test_a_store_without_one_of_its_shards_is_refused(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path, small_shards: None
) -> None:
    path = tmp_path / "store"
    extract(classifier, folder, path, batch_size=7)
    (path / "shard-000002.safetensors").unlink()
    with pytest.raises(ArtefactError, match="is 3 instead of 4"):
        ActivationStore(path)
    assert len(extract(classifier, folder, path, batch_size=7)) == 44


def test_a_replacement_killed_at_any_moment_never_mixes_data_sets(
    head: LinearHead, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    for deaths in range(1, 9):
        path = tmp_path / str(deaths)
        with StoreWriter(path, head, "old") as writer:
            for _ in range(3):
                writer.append(random_activations(head, 10))
        left = deaths

        def dying(self: Path, missing_ok: bool = False) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Interrupted
            unlink(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch, contextlib.suppress(Interrupted):
            patch.setattr(Path, "unlink", dying)
            StoreWriter(path, head, "new")
        gc.collect()  # a dead process holds no lock
        with StoreWriter(path, head, "new") as writer:
            assert writer.position == 0
            writer.append(random_activations(head, 10))
        assert len(ActivationStore(path)) == 10


def test_two_writers_and_foreign_folders_are_refused(head: LinearHead, tmp_path: Path) -> None:
    with (
        StoreWriter(tmp_path / "store", head, "key"),
        pytest.raises(ArtefactError, match="Another process is writing"),
    ):
        StoreWriter(tmp_path / "store", head, "key")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shard-1.safetensors").write_text("mine")
    with pytest.raises(ArtefactError, match="holds other files and no store"):
        StoreWriter(tmp_path / "mine", head, "key")
    assert (tmp_path / "mine" / "shard-1.safetensors").read_text() == "mine"


def test_a_full_disk_is_one_sentence(
    head: LinearHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_files, "save_file", full)
    with pytest.raises(ArtefactError, match="Cannot write.*No space left"):
        StoreWriter(tmp_path, head, "key")


def test_stores_of_a_newer_schema_or_none_are_refused(tmp_path: Path, head: LinearHead) -> None:
    with pytest.raises(ArtefactError, match="no activation store"):
        ActivationStore(tmp_path)
    with StoreWriter(tmp_path, head, "key") as writer:
        writer.append(random_activations(head, 5))
    manifest = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ArtefactError, match="schema 99, newer"):
        ActivationStore(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ArtefactError, match="damaged"):
        ActivationStore(tmp_path)


def test_features_keep_their_dtype_on_disk(tmp_path: Path, head: LinearHead) -> None:
    with StoreWriter(tmp_path, head, "key") as writer:
        writer.append(random_activations(head, 5))
    assert ActivationStore(tmp_path).load().features.dtype == torch.float64


def test_a_source_without_readable_images_is_an_error(
    classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(NotEnoughImages, match="None of the 1 images.*'a.png' is empty"):
        extract(classifier, ImageFolder(tmp_path), tmp_path / "store")


def test_batch_size_does_not_change_the_features(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path
) -> None:
    one = extract(classifier, folder, tmp_path / "one", batch_size=1).load()
    other = extract(classifier, folder, tmp_path / "other", batch_size=32).load()
    torch.testing.assert_close(one.features, other.features)


class PictureData(Dataset):
    """Pillow images and integer labels, one at a time."""

    def __init__(self, count: int) -> None:
        self.images, self.labels = colour_images(count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])


def test_batches_of_no_image_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    for size in (0, -1, 2.5):
        with pytest.raises(InvalidInput, match="batch_size"):
            extract(classifier, colour_tensors(4)[0], tmp_path, batch_size=size)  # type: ignore[arg-type]


def test_anything_people_hold_images_in_is_a_source(classifier: Classifier, tmp_path: Path) -> None:
    tensors, labels = colour_tensors(9)
    expected = classifier(tensors).features
    dataset = TensorDataset(tensors, labels)
    forms = {
        "tensor": tensors,
        "data set": dataset,
        "loader": DataLoader(dataset, batch_size=4),
        "list of batches": [tensors[:5], tensors[5:]],
        "data set of pictures": PictureData(9),
    }
    for name, form in forms.items():
        store = extract(classifier, form, tmp_path / name)
        torch.testing.assert_close(store.load().features, expected)
        assert store.has_labels == (name in ("data set", "loader", "data set of pictures"))
