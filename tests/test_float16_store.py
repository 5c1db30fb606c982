"""Stores in float16: half the space, the same but for rounding, never silently infinite."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import random_activations, write_pictures
from neroli import Activations, ActivationStore, Classifier, Guard, LinearHead, extract
from neroli.data.folders import ImageFolder
from neroli.detectors import NERO
from neroli.errors import InvalidInput
from neroli.store import StoreWriter
from neroli.taps import Requirements, Tap
from networks import COLOURS

TAPPED = Requirements(taps=(Tap("0", "max"),))


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    write_pictures(tmp_path / "images", 45, seed=1)
    return ImageFolder(tmp_path / "images").labelled({name: i for i, name in enumerate(COLOURS)})


def test_every_value_is_the_nearest_half_and_is_read_as_float32(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path
) -> None:
    plain = extract(classifier, folder, tmp_path / "plain", requires=TAPPED).load()
    store = extract(classifier, folder, tmp_path / "half", requires=TAPPED, dtype="float16")
    half = store.load()
    for read, computed in (
        (half.features, plain.features),
        (half.logits, plain.logits),
        (half.taps["0:max"], plain.taps["0:max"]),
    ):
        assert read.dtype == torch.float32
        expected = computed.numpy().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(read.numpy(), expected)
    assert half.labels is not None and plain.labels is not None
    assert torch.equal(half.labels, plain.labels)
    assert half.ids == plain.ids
    assert {dtype for dtype, shape in store.columns().values()} == {"F16", "I64", "U8"}


def test_the_dtype_belongs_to_what_a_store_is_known_by(
    classifier: Classifier, folder: ImageFolder, tmp_path: Path
) -> None:
    plain = extract(classifier, folder, tmp_path / "store")
    half = extract(classifier, folder, tmp_path / "store", dtype="float16")
    assert half.key != plain.key
    assert half.load().features.dtype == torch.float32
    assert extract(classifier, folder, tmp_path / "store").columns()["features"][0] == "F32"


def test_what_float16_cannot_hold_is_refused_with_its_value(
    head: LinearHead, tmp_path: Path
) -> None:
    batch = random_activations(head, 20)
    for name, value in (("features", 70_000.0), ("logits", -65_505.0)):
        values = getattr(batch, name).clone()
        values[13, 2] = value
        large = replace(batch, **{name: values})
        with (
            pytest.raises(InvalidInput, match=f"'{name}' of image 'image-0-13' holds {value:.6g}"),
            StoreWriter(tmp_path / name, head, "key", dtype="float16") as writer,
        ):
            writer.append(large)
    tapped = replace(batch, taps={"layer": torch.full((20, 1), 1e6)})
    with (
        pytest.raises(InvalidInput, match=r"'taps/layer'.*without dtype='float16'"),
        StoreWriter(tmp_path / "tap", head, "key", dtype="float16") as writer,
    ):
        writer.append(tapped)
    with StoreWriter(tmp_path / "plain", head, "key") as writer:
        writer.append(large)
    assert float(ActivationStore(tmp_path / "plain").load().logits.min()) == -65_505


def test_the_largest_half_and_infinity_stay_what_they_are(head: LinearHead, tmp_path: Path) -> None:
    batch = random_activations(head, 3)
    features = batch.features.clone()
    features[0, 0], features[1, 1] = 65_504.0, float("inf")
    with StoreWriter(tmp_path, head, "key", dtype="float16") as writer:
        writer.append(Activations(features, batch.logits))
    read = ActivationStore(tmp_path).load().features
    assert read[0, 0] == 65_504
    assert read[1, 1] == float("inf")


def test_an_unknown_dtype_is_refused(head: LinearHead, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'int8'"):
        StoreWriter(tmp_path, head, "key", dtype="int8")  # type: ignore[arg-type]


def test_a_guard_fitted_in_float16_says_nearly_the_same(
    classifier: Classifier, pictures: Path, tmp_path: Path
) -> None:
    def fitted(name: str, dtype: str | None) -> Guard:
        guard = Guard(classifier, NERO())
        guard.fit(pictures / "train", store=tmp_path / name / "t", store_dtype=dtype)  # type: ignore[arg-type]
        return guard.calibrate(
            pictures / "calibration",
            store=tmp_path / name / "c",
            store_dtype=dtype,  # type: ignore[arg-type]
        )

    plain, half = fitted("plain", None), fitted("half", "float16")
    assert ActivationStore(tmp_path / "half" / "t").columns()["features"][0] == "F16"
    assert ActivationStore(tmp_path / "half" / "c").columns()["logits"][0] == "F16"
    new = sorted((pictures / "new").iterdir())
    one, other = plain(new), half(new)
    torch.testing.assert_close(one.score, other.score, rtol=2e-3, atol=2e-3)
    assert not torch.equal(one.score, other.score)
