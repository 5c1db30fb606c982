"""What is shared holds no names of patients or files, and no group is on both sides."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli import Classifier, Guard, extract
from neroli.data.folders import ImageFiles
from neroli.data.sources import as_images
from neroli.detectors import NERO
from neroli.errors import CalibrationOverlap, NeroliWarning
from neroli.overlap import TrainingImages
from networks import COLOURS, colour_loader, colour_tensors, trained_colour_network

SECRET = "Doe_Jane_1970"


def pictures_of(root: Path, count: int, seed: int, groups: list[str]) -> ImageFiles:
    """Labelled pictures whose files bear a patient's name."""
    write_pictures(root / SECRET, count, seed=seed)
    paths = sorted(root.rglob("*.png"))
    labels = [COLOURS.index(path.parent.name) for path in paths]
    names = [path.relative_to(root).as_posix() for path in paths]
    given = [f"{SECRET}-{groups[i % len(groups)]}" for i in range(count)]
    return ImageFiles(paths, labels, names, given)


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_guard_holds_neither_file_names_nor_groups(
    classifier: Classifier, tmp_path: Path
) -> None:
    training = pictures_of(tmp_path / "train", 90, 1, ["a", "b", "c"])
    held_out = pictures_of(tmp_path / "held", 60, 2, ["d", "e"])
    guard = Guard(classifier, NERO()).fit(training, store=tmp_path / "store").calibrate(held_out)
    guard.save(tmp_path / "guard")
    assert SECRET.encode() not in contents(tmp_path / "guard")
    assert SECRET.encode() not in contents(tmp_path / "store")
    assert guard.training is not None
    assert guard.training.groups == 3


def test_a_group_on_both_sides_is_refused_also_by_a_loaded_guard(
    classifier: Classifier, tmp_path: Path
) -> None:
    training = pictures_of(tmp_path / "train", 90, 1, ["a", "b", "c"])
    guard = Guard(classifier, NERO()).fit(training)
    guard.save(tmp_path / "guard")
    shared = pictures_of(tmp_path / "held", 60, 2, ["d", "c"])
    for known in (guard, Guard.load(tmp_path / "guard", trained_colour_network())):
        with pytest.raises(CalibrationOverlap, match="1 of the 3 training groups"):
            known.calibrate(shared)
        assert known.calibration is None
        known.calibrate(pictures_of(tmp_path / "other", 60, 3, ["d", "e"]))


def test_groups_on_one_side_alone_are_said(classifier: Classifier, tmp_path: Path) -> None:
    guard = Guard(classifier, NERO()).fit(colour_loader(90, 1))
    tensors = [(*colour_tensors(60, 2), [str(i) for i in range(60)], ["ann"] * 60)]
    with pytest.warns(NeroliWarning, match="Only one of training and calibration says which group"):
        guard.calibrate(tensors)


def test_groups_of_a_loader_are_kept_apart_too(classifier: Classifier) -> None:
    names = [str(i) for i in range(90)]
    training = [(*colour_tensors(90, 1), names, ["ann", "bob", "cy"] * 30)]
    guard = Guard(classifier, NERO()).fit(training)
    with pytest.raises(CalibrationOverlap, match="1 of the 3 training groups"):
        guard.calibrate([(*colour_tensors(60, 2), names[:60], ["ann", "dee"] * 30)])


def test_the_same_group_has_another_hash_beside_other_training_images() -> None:
    draw = torch.Generator().manual_seed(0)
    hashes = torch.randint(256, (2, 5, 16), generator=draw, dtype=torch.uint8)
    group = torch.zeros(5, 16, dtype=torch.uint8)
    one, other = (TrainingImages.of(digests, group) for digests in hashes)
    assert one.groups.shape == (1, 16)
    assert not torch.equal(one.groups, other.groups)
    assert not torch.equal(one.groups[0], group[0])


class TaggedTensor(torch.Tensor):
    """A tensor that carries a patient's record, as MONAI's MetaTensor does."""

    meta: dict[str, str]


def tagged(images: torch.Tensor) -> Any:
    tensor = images.as_subclass(TaggedTensor)
    tensor.meta = {"PatientName": SECRET}
    return tensor


def monai_tagged(images: torch.Tensor) -> Any:
    data = pytest.importorskip("monai.data")
    return data.MetaTensor(images, meta={"PatientName": SECRET, "filename_or_obj": SECRET})


@pytest.mark.parametrize("make", [tagged, monai_tagged])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_metadata_of_tensors_is_lost_at_the_boundary(make: Any, dtype: torch.dtype) -> None:
    images = (50 * colour_tensors(4)[0].abs()).to(dtype)
    for form in (make(images), [make(image) for image in images]):
        plain = as_images(form, COLOUR_PREPROCESSING)
        assert type(plain) is torch.Tensor
        assert not hasattr(plain, "meta")
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    activations = classifier(make(images))
    assert {type(activations.features), type(activations.logits)} == {torch.Tensor}
    torch.testing.assert_close(activations.logits, classifier(images).logits)


def test_a_guard_of_tagged_tensors_holds_nothing_of_their_tags(
    classifier: Classifier, tmp_path: Path
) -> None:
    images, labels = colour_tensors(90, 1)
    guard = Guard(classifier, NERO()).fit([(tagged(images), labels)])
    guard.calibrate([tagged(colour_tensors(60, 2)[0])]).save(tmp_path / "guard")
    store = extract(classifier, [tagged(images)], tmp_path / "store")
    assert len(store) == 90
    assert SECRET.encode() not in contents(tmp_path)


def test_a_model_that_works_in_place_does_not_change_the_callers_tagged_images() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU(inplace=True), *trained_colour_network())
    images = tagged(colour_tensors(4)[0])
    before = images.clone()
    Classifier(model)(images)
    assert torch.equal(images.as_subclass(torch.Tensor), before.as_subclass(torch.Tensor))


def test_the_manifest_says_how_many_groups_there_were(
    classifier: Classifier, tmp_path: Path
) -> None:
    training = pictures_of(tmp_path / "train", 90, 1, ["a", "b"])
    Guard(classifier, NERO()).fit(training).save(tmp_path / "guard")
    manifest = json.loads((tmp_path / "guard" / "manifest.json").read_text())
    assert manifest["training"]["groups"] == 2
