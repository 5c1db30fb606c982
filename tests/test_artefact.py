"""Saved guards: the same verdicts when loaded, and nothing else accepted."""

import json
from pathlib import Path

import pytest
import torch

from neroli import Classifier, Guard
from neroli.detectors import MSP, NERO, Detector, Energy, Ensemble, LINe, register
from neroli.errors import ArtefactError, CalibrationOverlap, InvalidInput, NeroliError
from networks import colour_loader, colour_tensors, trained_colour_network

NEW = colour_tensors(50, 3)[0]


@pytest.mark.parametrize("detector", [NERO(), LINe(), Energy(temperature=2.0)])
def test_save_and_load_give_the_same_verdicts_bit_for_bit(
    classifier: Classifier, detector: Detector, tmp_path: Path
) -> None:
    guard = Guard(classifier, detector).fit(colour_loader(150, 1))
    guard.calibrate(colour_loader(150, 2), 0.1, guarantee="average", per_class=True)
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    for name in ("score", "p_value", "is_ood", "predicted_class"):
        assert torch.equal(getattr(loaded(NEW), name), getattr(guard(NEW), name))
    assert loaded.detector.hyperparameters() == detector.hyperparameters()
    assert loaded.classifier.class_names == ["blue", "green", "red"]
    assert loaded.classifier.preprocessing == classifier.preprocessing
    assert loaded.manifest() == guard.manifest()
    with pytest.raises(CalibrationOverlap):  # the training images' hashes were saved too
        loaded.calibrate(colour_loader(150, 1))


def test_a_detector_that_could_not_be_loaded_is_not_saved(
    classifier: Classifier, tmp_path: Path
) -> None:
    class Own(MSP):
        name = "own"

    guard = Guard(classifier, Own()).fit(colour_loader(90, 1))
    with pytest.raises(InvalidInput, match="Own is not registered"):
        guard.save(tmp_path / "guard")
    register(Own)
    guard.save(tmp_path / "guard")
    assert isinstance(Guard.load(tmp_path / "guard", classifier.model).detector, Own)


@pytest.fixture
def saved(guard: Guard, tmp_path: Path) -> Path:
    guard.save(tmp_path / "guard")
    return tmp_path / "guard"


def test_a_guard_of_another_model_is_refused(saved: Path) -> None:
    other = trained_colour_network()
    other[0].weight.data[0, 0, 0, 0] += 1e-3
    with pytest.raises(ArtefactError, match="other weights"):
        Guard.load(saved, other)


def test_a_guard_of_a_newer_schema_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest |= {"schema_version": 99, "something": "new"}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="schema 99, newer than the 3.*upgrade"):
        Guard.load(saved, trained_colour_network())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a valid guard manifest"),
        (b'{"schema_version": 2}', "schema 2 of an earlier neroli.*fit it again"),
        (b'{"schema_version": 3}', "not a valid guard manifest"),
        (b"\xff\xfe", "not text"),
    ],
)
def test_a_damaged_manifest_is_refused(saved: Path, content: bytes, message: str) -> None:
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=message):
        Guard.load(saved, trained_colour_network())


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("classifier", {"num_classes": -3}, "num_classes"),
        ("classifier", {"num_classes": 7}, "3 classes|has 16 and 3"),
        ("detector", {"name": "nerooo"}, "did you mean 'nero'"),
        ("detector", {"hyperparameters": {"eps": -1}}, "eps"),
        ("training", {"images": -5}, "images"),
    ],
)
def test_an_edited_manifest_is_refused(
    saved: Path, part: str, change: dict[str, object], message: str
) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest[part] |= change
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NeroliError, match=message):
        Guard.load(saved, trained_colour_network())


def test_damaged_or_missing_tensors_and_folders_are_refused(saved: Path, tmp_path: Path) -> None:
    model = trained_colour_network()
    (state,) = saved.glob("state-*.safetensors")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(ArtefactError, match="damaged"):
        Guard.load(saved, model)
    state.unlink()
    with pytest.raises(ArtefactError, match="No such file"):
        Guard.load(saved, model)
    with pytest.raises(ArtefactError, match="no guard in"):
        Guard.load(tmp_path / "gone", model)


def test_saving_replaces_a_guard_but_nothing_else(guard: Guard, saved: Path) -> None:
    guard.fit(colour_loader(90, 8)).calibrate(colour_loader(90, 2)).save(saved)
    assert len(visible(saved)) == 2
    loaded = Guard.load(saved, trained_colour_network())
    assert torch.equal(loaded(NEW).score, guard(NEW).score)


def test_folders_with_other_files_are_left_alone(guard: Guard, tmp_path: Path) -> None:
    for name, content in (("notes.txt", "mine"), ("manifest.json", '{"name": "web app"}')):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(ArtefactError, match="holds other files and no guard"):
            guard.save(folder)
        assert [path.name for path in folder.iterdir()] == [name]


def test_a_guard_can_be_saved_where_a_first_save_was_killed(guard: Guard, saved: Path) -> None:
    (saved / "manifest.json").unlink()
    guard.save(saved)
    Guard.load(saved, trained_colour_network())


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_save_that_fails_leaves_the_old_guard(
    guard: Guard, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = guard(NEW).score
    other = (
        Guard(guard.classifier, NERO()).fit(colour_loader(90, 8)).calibrate(colour_loader(90, 2))
    )
    original = Path.replace

    def dies_before_the_manifest(self: Path, target: Path) -> Path:
        if Path(target).name == "manifest.json":
            raise OSError("power cut")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", dies_before_the_manifest)
    with pytest.raises(ArtefactError, match="Cannot write.*manifest.json': power cut"):
        other.save(saved)
    monkeypatch.undo()
    loaded = Guard.load(saved, trained_colour_network())
    assert torch.equal(loaded(NEW).score, expected)


def test_artefacts_hold_no_pickle_and_no_path(
    pictures: Path, classifier: Classifier, tmp_path: Path
) -> None:
    guard = Guard(classifier, NERO()).fit(pictures / "train").calibrate(pictures / "calibration")
    guard.save(tmp_path / "guard")
    assert {path.suffix for path in visible(tmp_path / "guard")} == {".json", ".safetensors"}
    for path in (tmp_path / "guard").iterdir():
        assert str(pictures).encode() not in path.read_bytes()
        assert b"0001.png" not in path.read_bytes()


def test_an_ensemble_with_a_member_that_could_not_be_loaded_is_not_saved(
    classifier: Classifier, tmp_path: Path
) -> None:
    class Own(Energy):
        name = "own_energy"

    guard = Guard(classifier, Ensemble([Own(), "msp"])).fit(colour_loader(150, 1))
    with pytest.raises(InvalidInput, match="Ensemble is not registered, or a member of it"):
        guard.save(tmp_path / "guard")
    assert not (tmp_path / "guard").exists()
