"""Guards from stores instead of images: the same guard, the same verdicts."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import COLOUR_PREPROCESSING
from neroli import ActivationStore, Classifier, Guard, Preprocessing, extract
from neroli import store as store_module
from neroli.detectors import MSP, NACUE, NERO
from neroli.errors import ArtefactError, InvalidInput, NeroliWarning, NotCalibrated
from neroli.execution import Execution
from neroli.scores import ScoreTable
from neroli.store_joining import joined
from neroli.store_pruning import pruned
from neroli.taps import Requirements, Tap
from networks import COLOURS, trained_colour_network


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_ROWS", 10)


@pytest.fixture
def stores(classifier: Classifier, pictures: Path, tmp_path: Path) -> dict[str, ActivationStore]:
    (tmp_path / "new").mkdir()
    for path in (pictures / "new").iterdir():
        (tmp_path / "new" / path.name).symlink_to(path)
    for name in ("0003b.png", "0020b.png"):
        (tmp_path / "new" / name).write_bytes(b"broken")
    folders = {"train": pictures / "train", "calibration": pictures / "calibration"}
    return {
        name: extract(
            classifier, folder, tmp_path / "stores" / name, labelled=name == "train", batch_size=4
        )
        for name, folder in {**folders, "new": tmp_path / "new"}.items()
    }


def bare() -> Classifier:
    """A classifier that knows nothing but its network."""
    return Classifier(trained_colour_network())


def test_a_guard_of_stores_is_the_guard_of_the_images(
    classifier: Classifier, stores: dict[str, ActivationStore], pictures: Path, tmp_path: Path
) -> None:
    direct = Guard(classifier, NERO()).fit(pictures / "train").calibrate(pictures / "calibration")
    guard = Guard(bare(), NERO()).fit(stores["train"]).calibrate(stores["calibration"])
    one, other = direct.manifest(), guard.manifest()
    assert one.classifier == other.classifier  # preprocessing, input shape and class names too
    assert other.classifier.class_names == list(COLOURS)
    assert one.training == other.training
    assert guard.calibration is not None and direct.calibration is not None
    assert guard.calibration.threshold == pytest.approx(direct.calibration.threshold, rel=1e-5)
    assert guard.held_out is not None
    assert guard.held_out.images == 60


def test_a_store_gets_the_verdicts_of_its_images(
    classifier: Classifier, stores: dict[str, ActivationStore], pictures: Path, tmp_path: Path
) -> None:
    guard = Guard(classifier, NERO()).fit(stores["train"]).calibrate(stores["calibration"])
    images = list(guard.stream(tmp_path / "new", batch_size=7))
    batches = list(guard.stream(stores["new"]))
    for name in ("score", "p_value", "is_ood", "predicted_class"):
        one, other = (
            torch.cat([getattr(batch.verdicts, name).double() for batch in each])
            for each in (images, batches)
        )
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert [i for b in batches for i in b.ids] == [i for b in images for i in b.ids]
    failures = [failure for batch in batches for failure in batch.failures]
    assert [f.name for f in failures] == ["0003b.png", "0020b.png"]
    assert batches[-1].end == 42
    assert {name for batch in batches for name in batch.names} == {None}


def test_scoring_a_store_goes_on_where_it_stopped(
    classifier: Classifier, stores: dict[str, ActivationStore]
) -> None:
    guard = Guard(classifier, MSP()).fit(stores["train"]).calibrate(stores["calibration"])
    whole = list(guard.stream(stores["new"]))
    assert len(whole) > 2
    for batch in whole:
        rest = [i for b in guard.stream(stores["new"], start=batch.end) for i in b.ids]
        done = [i for b in whole if b.end <= batch.end for i in b.ids]
        assert done + rest == [i for b in whole for i in b.ids]
    inside = list(guard.stream(stores["new"], start=2))
    assert sum(len(b.ids) for b in inside) == 38
    assert sum(len(b.failures) for b in inside) == 2


def test_a_table_of_a_store_has_every_row_once(
    classifier: Classifier, stores: dict[str, ActivationStore], tmp_path: Path
) -> None:
    guard = Guard(classifier, MSP()).fit(stores["train"]).calibrate(stores["calibration"])
    path = tmp_path / "scores.csv"
    for batch in list(guard.stream(stores["new"]))[:2]:
        table = ScoreTable(path, "key", guard.manifest())
        table.append(batch)
        table.flush()
        table._lock.close()
    table = ScoreTable(path, "key", guard.manifest())
    for batch in guard.stream(stores["new"], start=table.position):
        table.append(batch)
    summary = table.finish()
    assert summary.images == 42
    assert len(summary.failures) == 2


def test_stores_of_others_are_refused_before_the_work(
    classifier: Classifier, stores: dict[str, ActivationStore]
) -> None:
    guard = Guard(classifier, MSP()).fit(stores["train"])
    with pytest.raises(NotCalibrated):
        guard.stream(stores["new"])
    guard.calibrate(stores["calibration"])
    other = trained_colour_network()
    other[6].bias.data += 1
    with pytest.raises(InvalidInput, match="another classifier: extract"):
        Guard(Classifier(other), MSP()).fit(stores["train"])
    grey = Preprocessing(mean=(0.4, 0.4, 0.4), std=COLOUR_PREPROCESSING.std)
    with pytest.raises(InvalidInput, match=r"another preprocessing.*0\.5.*0\.4"):
        Guard(Classifier(classifier.model, preprocessing=grey), MSP()).fit(stores["train"])
    tapping = Guard(
        classifier, NACUE(layers=("0",), bins=(50, 50), full=(10.0, 10.0), alpha=(1.0, 1.0))
    )
    with pytest.raises(InvalidInput, match=r"store '.*train' lacks '0.*requires"):
        tapping.fit(stores["train"])


def in_half(pictures: Path, out: Path) -> ActivationStore:
    """A store of the training images, whose network ran in half precision."""
    half = Classifier(
        trained_colour_network(),
        preprocessing=COLOUR_PREPROCESSING,
        class_names=COLOURS,
        execution=Execution("bfloat16"),
    )
    return extract(half, pictures / "train", out, labelled=True)


@pytest.mark.parametrize("changed", ["weight", "bias"])
def test_a_store_whose_head_was_changed_is_refused(
    stores: dict[str, ActivationStore], changed: str
) -> None:
    path = stores["train"].path / "head.safetensors"
    tensors = load_file(path)
    tensors[changed].view(-1)[0] += 0.01 * tensors[changed].abs().max() + 0.01
    save_file(tensors, path)
    with pytest.raises(ArtefactError, match="head in the store .*train.* is not the classifier's"):
        Guard(bare(), NERO()).fit(ActivationStore(stores["train"].path))


def test_a_store_of_another_precision_is_refused_and_of_another_layout_has_a_warning(
    stores: dict[str, ActivationStore], pictures: Path, tmp_path: Path
) -> None:
    half = in_half(pictures, tmp_path / "half")
    smaller = pruned(half, tmp_path / "smaller", dtype="float16")
    joint = joined([half.path, half.path], tmp_path / "joint", "twice")
    for store in (half, smaller, joint):
        with pytest.raises(InvalidInput, match="extracted in bfloat16 .* runs in float32.*--preci"):
            Guard(bare(), MSP()).fit(store)
    classifier = bare()
    classifier.execution = Execution("bfloat16")
    guard = Guard(classifier, MSP()).fit(half)
    with pytest.raises(InvalidInput, match="calibration' was extracted in float32"):
        guard.calibrate(stores["calibration"])
    classifier.execution = Execution("bfloat16", channels_last=True)
    with pytest.warns(NeroliWarning, match="run as bfloat16, this .* channels last: .* rounding"):
        guard.fit(half)


def test_a_store_that_does_not_say_how_it_was_extracted_is_taken(
    stores: dict[str, ActivationStore], pictures: Path, tmp_path: Path
) -> None:
    half = in_half(pictures, tmp_path / "half")
    manifest = json.loads((half.path / "store.json").read_text())
    assert manifest["origin"].pop("execution")["precision"] == "bfloat16"
    (half.path / "store.json").write_text(json.dumps(manifest))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Guard(bare(), MSP()).fit(ActivationStore(half.path))
    both = joined([stores["train"].path, half.path], tmp_path / "both", "both")
    assert both.origin is not None and both.origin.execution is None


def test_a_store_with_more_than_is_required_will_do(
    classifier: Classifier, pictures: Path, tmp_path: Path
) -> None:
    requires = Requirements(taps=(Tap("0", "max"), Tap("2", "mean")))
    store = extract(
        classifier, pictures / "train", tmp_path / "s", labelled=True, requires=requires
    )
    assert Guard(bare(), MSP()).fit(store).training is not None
