"""Looking at stores and checking them: what was changed since it was written is found."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from conftest import random_activations, write_pictures
from neroli import Activations, Classifier, LinearHead, extract
from neroli import store as store_module
from neroli.data.folders import ImageFolder
from neroli.errors import ArtefactError
from neroli.store import StoreWriter
from neroli.store_checking import inspected, verified
from neroli.store_files import shard_path
from networks import COLOURS


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 10)


@pytest.fixture
def store(classifier: Classifier, tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images", 40, seed=1)
    images = tmp_path / "images"
    (images / "red" / "copy.png").write_bytes((images / "blue" / "0000.png").read_bytes())
    (images / "red" / "z.png").write_bytes(b"broken")
    folder = ImageFolder(images).labelled({name: i for i, name in enumerate(COLOURS)})
    extract(classifier, folder, tmp_path / "store", batch_size=5)
    return tmp_path / "store"


def written(path: Path, head: LinearHead, activations: Activations) -> Path:
    with StoreWriter(path, head, "key") as writer:
        writer.append(activations)
    return path


def test_a_sound_store_is_sound(store: Path) -> None:
    found = verified(store)
    assert found.problems == ()
    assert (found.images, found.copies, found.unprotected) == (41, 1, 0)


def test_inspection_says_what_is_there(store: Path, classifier: Classifier) -> None:
    facts = inspected(store)
    assert (facts.images, facts.unreadable, facts.complete) == (41, 1, True)
    assert facts.shards == facts.expected == facts.checksums == 5
    assert (facts.num_features, facts.num_classes) == (16, 3)
    assert facts.columns["features"] == ("F32", (16,))
    assert facts.columns["digests"] == ("U8", (16,))
    assert facts.size == sum(file.stat().st_size for file in store.iterdir())
    assert facts.origin is not None
    assert facts.origin.weights_hash == classifier.weights_hash()
    assert facts.origin.class_names == COLOURS
    assert facts.origin.input_shape == (3, 8, 8)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_a_flipped_byte_that_keeps_the_size_is_found(
    head: LinearHead, tmp_path: Path, place: float, dtype: str | None
) -> None:
    with StoreWriter(tmp_path, head, "key", dtype=dtype) as writer:  # type: ignore[arg-type]
        writer.append(random_activations(head, 10))
    path = shard_path(tmp_path, 0)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")  # behind the file's own header
    content[start + int(place * (len(content) - start))] ^= 1  # the lowest bit, or a label's
    path.write_bytes(content)
    assert any("bytes have changed" in problem for problem in verified(tmp_path).problems)


def test_a_changed_list_of_failures_is_found(store: Path) -> None:
    path = next(p for p in sorted(store.glob("shard-*")) if b"red/z.png" in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"red/z.png", b"red/y.png"))
    (problem,) = verified(store).problems
    assert problem == f"{path.name}: bytes have changed since they were written."


def test_a_store_of_an_earlier_version_is_read_without_checksums(store: Path) -> None:
    for path in store.glob("shard-*"):
        with safe_open(path, "pt") as file:
            header = file.metadata()["shard"]
        save_file(load(path.read_bytes()), path, {"shard": header})
    manifest = json.loads((store / "store.json").read_text())
    keys = ("weights_hash", "head_name", "content")
    manifest["origin"] = {key: manifest["origin"][key] for key in keys}
    del manifest["offsets"]
    (store / "store.json").write_text(json.dumps(manifest))
    found = verified(store)
    assert (found.problems, found.unprotected, found.images) == ((), 5, 41)
    assert inspected(store).checksums == 0


def test_wrong_values_are_found_whatever_the_checksum(head: LinearHead, tmp_path: Path) -> None:
    good = random_activations(head, 10)
    logits = good.logits.clone()
    logits[4, 1] += 0.01
    other = written(tmp_path / "a", head, Activations(good.features, logits))
    assert "the logits of row 4 are not" in verified(other).problems[0]
    features = good.features.clone()
    features[7, 3] = float("nan")
    nan = written(tmp_path / "b", head, Activations(features, good.logits))
    assert "'features' of row 7 holds NaN" in verified(nan).problems[0]
    wide = LinearHead(torch.randn(5, 25).double())
    shape = written(tmp_path / "c", wide, good)
    assert "24 features and 5 classes, its head has 25 and 5" in verified(shape).problems[0]
    single = replace(good.to("cpu"), features=good.features.float(), logits=logits.float())
    (problem,) = verified(
        written(tmp_path / "d", LinearHead(head.weight.float() * 2, head.bias.float()), single)
    ).problems
    assert "logits of row 0" in problem


def test_rounding_to_half_is_no_problem(head: LinearHead, tmp_path: Path) -> None:
    single = LinearHead(head.weight.float(), head.bias.float())
    features = random_activations(head, 60).features.float()
    with StoreWriter(tmp_path, single, "key", dtype="float16") as writer:
        writer.append(Activations.from_features(features, single))
    assert verified(tmp_path).problems == ()


def test_shards_with_other_columns_are_found(head: LinearHead, tmp_path: Path) -> None:
    batch = random_activations(head, 10)
    with StoreWriter(tmp_path, head, "key") as writer:
        writer.append(batch)
        writer.append(Activations(batch.features, batch.logits))  # without labels
    (problem,) = verified(tmp_path).problems
    assert problem == "shard-000001.safetensors: its columns are not those of the first shard."


def test_damaged_and_missing_files_are_named(store: Path) -> None:
    shard_path(store, 1).write_bytes(shard_path(store, 1).read_bytes()[:50])
    shard_path(store, 3).unlink()
    (store / "head.safetensors").write_bytes(b"")
    facts = inspected(store)
    expected = ("head.safetensors", "shard-000001.safetensors", "shard-000003.safetensors")
    assert facts.damaged == expected
    assert (facts.shards, facts.num_features) == (3, None)
    problems = verified(store).problems
    assert [p.split()[0] for p in problems[:3]] == list(expected)
    assert "The number of whole shards is 3 instead of 5." in problems


def test_an_incomplete_store_can_be_looked_at(head: LinearHead, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), StoreWriter(tmp_path, head, "key") as writer:
        writer.append(random_activations(head, 12))
        raise KeyboardInterrupt
    facts = inspected(tmp_path)
    assert (facts.complete, facts.images, facts.expected) == (False, 12, None)
    assert "incomplete: run the extraction again" in verified(tmp_path).problems[0]


def test_no_store_is_one_sentence(tmp_path: Path) -> None:
    for look in (inspected, verified):
        with pytest.raises(ArtefactError, match="no activation store"):
            look(tmp_path)


@pytest.mark.parametrize("header", [{}, {"ids": None}, {"ids": None, "failures": [["a.png"]]}])
def test_a_shard_whose_header_lacks_something_is_damaged(
    store: Path, header: dict[str, object]
) -> None:
    path = shard_path(store, 0)
    save_file(load_file(path), path, {"shard": json.dumps({"end": 10, **header})})
    assert inspected(store).damaged == (path.name,)
    assert f"{path.name} is damaged." in verified(store).problems
