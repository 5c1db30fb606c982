"""Benchmark data sets of class folders by name: they load, or say what is missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layouts import (
    ID_GASTRO,
    folders_of,
    ood_of,
    write_classes,
    write_images,
    write_medical_tar,
)
from neroli.data import named
from neroli.data.named import gastro, medical_mnist
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages


def test_kvasir_has_three_normal_classes_and_five_near_sets(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.KVASIR.classes)
    data = named.load("kvasir-v2", tmp_path)
    assert data.class_names == ["normal-cecum", "normal-pylorus", "normal-z-line"]
    assert folders_of(data) == {("normal-cecum", 0), ("normal-pylorus", 1), ("normal-z-line", 2)}
    assert len(data.id_sets["all"]) == 6
    assert ood_of(data) == [
        ("esophagitis", "near", 2),
        ("polyps", "near", 2),
        ("ulcerative-colitis", "near", 2),
        ("dyed-lifted-polyps", "near", 2),
        ("dyed-resection-margins", "near", 2),
    ]
    assert all(name.startswith("polyps/") for name in data.ood_sets[1].images.names)
    assert "polyps has 2 of 1,000 images." in data.remarks


def test_sets_of_a_folder_are_ready_for_the_network(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.KVASIR.classes)
    data = named.load("kvasir-v2", tmp_path)
    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    (batch,) = data.id_sets["all"].batches(preprocessing, 10)
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (batch,) = data.ood_sets[0].images.batches(preprocessing, 10)
    assert batch.labels is None
    # A guard would match labels that are still stated to the classes of its classifier.
    assert data.id_sets["all"].stated_labels is None
    assert data.ood_sets[0].images.stated_labels is None


def test_the_folder_that_holds_the_data_set_may_be_given(tmp_path: Path) -> None:
    write_classes(tmp_path / "kvasir-dataset-v2", gastro.KVASIR.classes)
    write_classes(tmp_path / "__MACOSX" / "kvasir-dataset-v2", gastro.KVASIR.classes)
    assert len(named.load("kvasir-v2", str(tmp_path)).id_sets["all"]) == 6
    write_classes(tmp_path / "copy", gastro.KVASIR.classes)
    with pytest.raises(InvalidInput, match="more than one folder that looks like kvasir-v2"):
        named.load("kvasir-v2", tmp_path)


def test_missing_class_folders_are_named_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.KVASIR.classes[:2])
    write_images(tmp_path / "normal_colon")
    with pytest.raises(InvalidInput) as raised:
        named.load("kvasir-v2", tmp_path)
    message = str(raised.value)
    assert "lacks 6 folders, 'esophagitis', 'normal-cecum'" in message
    assert "and 1 more: kvasir-v2 is one folder of images for each of 8 classes" in message
    assert "also has 'normal_colon'" in message
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        named.load("kvasir-v2", tmp_path / "gone")
    with pytest.raises(InvalidInput, match="lacks 25 folders"):  # two are Kvasir's as well
        named.load("gastrovision", tmp_path)


def test_class_folders_without_an_image_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.KVASIR.classes)
    for path in (tmp_path / "polyps").iterdir():
        path.unlink()
    with pytest.raises(NotEnoughImages, match="no image of 'polyps'"):
        named.load("kvasir-v2", tmp_path)


def test_complete_copies_have_no_remark_and_others_are_counted(tmp_path: Path) -> None:
    few = gastro.ClassFolders("few", "", ("a",), ("b", "c"), 6, dict.fromkeys("abc", 2))
    write_classes(tmp_path, few.classes)
    assert few.load(tmp_path).remarks == []
    (tmp_path / "b" / "0.jpg").unlink()
    write_images(tmp_path / "c", 3)
    write_images(tmp_path / "d")
    Image.new("RGB", (8, 8)).save(tmp_path / "stray.png")
    assert few.load(tmp_path).remarks == [
        "b has 1 of 2 images.",
        "c has 3 images, more than the 2 published.",
        "No class of few, and left out: 'd'.",
    ]


def test_gastrovision_has_eleven_classes_by_our_choice(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.GASTROVISION.classes)
    data = named.load("gastrovision", tmp_path)
    assert len(gastro.GASTROVISION.classes) == 27
    assert data.class_names == list(ID_GASTRO)
    assert len(data.class_names) == 11
    assert folders_of(data) == {(name, index) for index, name in enumerate(ID_GASTRO)}
    assert len(data.ood_sets) == 16
    assert {nearness for _, nearness, _ in ood_of(data)} == {"near"}
    assert data.remarks[0] == "gastrovision has 54 of 8,000 images."
    assert "neroli's choice" in data.remarks[1]


def test_gastrovision_classes_may_be_chosen(tmp_path: Path) -> None:
    write_classes(tmp_path, gastro.GASTROVISION.classes)
    data = named.load("gastrovision", tmp_path, id_classes=["pylorus", "Normal_Stomach"])
    assert data.class_names == ["Pylorus", "Normal stomach"]
    assert folders_of(data) == {("Pylorus", 0), ("Normal stomach", 1)}
    assert len(data.ood_sets) == 25
    assert not any("choice" in remark for remark in data.remarks)
    with pytest.raises(InvalidInput, match="no class 'Pylorsu': did you mean 'Pylorus'"):
        named.load("gastrovision", tmp_path, id_classes=["Pylorsu"])
    for unusable in ([], ["Ulcer", "ulcer"]):
        with pytest.raises(InvalidInput, match="each class once and leave some ID class"):
            named.load("gastrovision", tmp_path, id_classes=unusable)


def test_folder_names_may_be_spelled_otherwise(tmp_path: Path) -> None:
    copied = {name: name.lower().replace(" ", "_") for name in gastro.GASTROVISION.classes}
    copied["Barrett's esophagus"] = "Barretts-Esophagus"
    write_classes(tmp_path, tuple(copied.values()))
    data = named.load("gastrovision", tmp_path)
    assert data.class_names == list(ID_GASTRO)
    assert folders_of(data) == {(copied[name], index) for index, name in enumerate(ID_GASTRO)}
    assert "Barrett's esophagus" in [ood.name for ood in data.ood_sets]
    write_images(tmp_path / "Ulcer ")
    with pytest.raises(InvalidInput, match="has 'Ulcer' as 'Ulcer ', 'ulcer': merge these"):
        named.load("gastrovision", tmp_path)


@pytest.mark.parametrize("form", ["folders", "archive", "archive in a folder"])
def test_medical_mnist_holds_out_two_classes(tmp_path: Path, form: str) -> None:
    root = tmp_path / "medical_mnist.tar" if form == "archive" else tmp_path
    if form == "folders":
        write_classes(root, medical_mnist.MEDICAL_MNIST.classes)
    else:
        write_medical_tar(tmp_path / "medical_mnist.tar", 2)
    data = named.load("medical-mnist", root)
    classes = ["AbdomenCT", "CXR", "ChestCT", "HeadCT"]
    assert data.class_names == classes
    assert folders_of(data) == {(name, index) for index, name in enumerate(classes)}
    assert ood_of(data) == [("BreastMRI", "near", 2), ("Hand", "near", 2)]
    assert "BreastMRI has 2 of 8,954 images." in data.remarks
    assert "neroli's choice" in data.remarks[-1]
    other = named.load("medical-mnist", root, ood_classes=["cxr"])
    assert other.class_names == ["AbdomenCT", "BreastMRI", "ChestCT", "Hand", "HeadCT"]
    assert ood_of(other) == [("CXR", "near", 2)]


def test_the_sample_of_medical_mnist_is_called_one(tmp_path: Path) -> None:
    write_medical_tar(tmp_path / "medical_mnist.tar", 1_000)
    remarks = named.load("medical-mnist", tmp_path).remarks
    assert remarks[0] == "This is a sample of 1,000 images of each class of medical-mnist."
    assert len(remarks) == 2


# CIFAR


def test_unknown_names_and_choices_are_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="no data set 'Kvasir': did you mean 'kvasir-v2'"):
        named.load("Kvasir", ".")
    with pytest.raises(InvalidInput, match="known are kvasir-v2, gastrovision"):
        named.describe("zzz")
    with pytest.raises(InvalidInput, match="cifar10 has no choice 'id_classes'; it has: none"):
        named.load("cifar10", ".", id_classes=["cat"])


@pytest.mark.parametrize("name", named.names())
def test_every_data_set_describes_its_layout_and_sets(name: str) -> None:
    text = named.describe(name)
    assert name in text
    assert "OOD" in text and "folder" in text and "ID" in text
    assert "http" not in text


@pytest.mark.realdata
def test_the_real_files_have_their_labels_and_counts(shared: Path) -> None:
    for name, size in (("cifar10", "10k"), ("cifar100", "5k")):
        data = named.load(name, shared / "data")
        for split, file in (("train", f"{name}_train{size}.npz"), ("test", f"{name}_test.npz")):
            with np.load(shared / "data" / file) as arrays:
                assert data.id_sets[split].labels == arrays["labels"].tolist()
                if "names" in arrays:
                    assert data.class_names == arrays["names"].tolist()
        counts = [count for _, _, count in ood_of(data)]
        assert counts == [10_000, 3_000, 3_000, 6_000]
        assert any(" of 50,000 images" in remark for remark in data.remarks)
    data = named.load("medical-mnist", shared / "data")
    assert len(data.id_sets["all"]) == 4_000
    assert np.bincount(data.id_sets["all"].labels or []).tolist() == [1_000] * 4
    assert ood_of(data) == [("BreastMRI", "near", 1_000), ("Hand", "near", 1_000)]
    assert "sample of 1,000" in data.remarks[0]
