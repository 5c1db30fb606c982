"""Benchmarks by name: each finds its layout, labels what it should, and says what is missing."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neroli.data import named
from neroli.data.named import NamedData, cifar, gastro, imagenet, medical_mnist
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages

ID_GASTRO = gastro.GASTROVISION.id_classes


def write_images(folder: Path, count: int = 1, suffix: str = ".jpg") -> None:
    """A folder of 8x8 images, each of one grey level."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, number, number)).save(folder / f"{number}{suffix}")


def write_classes(root: Path, classes: tuple[str, ...], count: int = 2) -> Path:
    for name in classes:
        write_images(root / name, count)
    return root


def write_records(path: Path, labels: list[int], *, before: bytes = b"", seed: int = 0) -> None:
    """A binary CIFAR file of random pictures; ``before`` stands before each label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    path.write_bytes(
        b"".join(before + bytes([n]) + p.tobytes() for n, p in zip(labels, pixels, strict=True))
    )


def write_arrays(path: Path, labels: list[int], **more: object) -> None:
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    np.savez(path, images=images, labels=np.array(labels, np.uint8), **more)  # type: ignore[arg-type]


def write_wnids(folder: Path, count: int) -> list[str]:
    wnids = [f"n{number:08d}" for number in range(count)]
    for wnid in wnids:
        write_images(folder / wnid, suffix=".JPEG")
    return wnids


def folders_of(data: NamedData, split: str = "all") -> set[tuple[str, int]]:
    """The class folders and labels of an ID set."""
    images = data.id_sets[split]
    assert images.labels is not None
    return {(n.split("/")[0], label) for n, label in zip(images.names, images.labels, strict=True)}


def ood_of(data: NamedData) -> list[tuple[str, str | None, int]]:
    return [(ood.name, ood.nearness, len(ood.images)) for ood in data.ood_sets]


# Folders of classes


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


def write_tar(path: Path, count: int) -> None:
    """Images of every kind of examination in the layout of the archive."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    with tarfile.open(path, "w") as archive:
        for name in medical_mnist.MEDICAL_MNIST.classes:
            for number in range(count):
                member = tarfile.TarInfo(f"{name}/{number:06d}.jpeg")
                member.size = len(file.getvalue())
                archive.addfile(member, io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("form", ["folders", "archive", "archive in a folder"])
def test_medical_mnist_holds_out_two_classes(tmp_path: Path, form: str) -> None:
    root = tmp_path / "medical_mnist.tar" if form == "archive" else tmp_path
    if form == "folders":
        write_classes(root, medical_mnist.MEDICAL_MNIST.classes)
    else:
        write_tar(tmp_path / "medical_mnist.tar", 2)
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
    write_tar(tmp_path / "medical_mnist.tar", 1_000)
    remarks = named.load("medical-mnist", tmp_path).remarks
    assert remarks[0] == "This is a sample of 1,000 images of each class of medical-mnist."
    assert len(remarks) == 2


# CIFAR


def write_binary(root: Path) -> None:
    """CIFAR-10 in its binary version, with two images a file."""
    for number in range(1, 6):
        write_records(root / f"data_batch_{number}.bin", [number, 9 - number], seed=number)
    write_records(root / "test_batch.bin", [3, 8, 0], seed=9)


def test_binary_cifar10_keeps_order_labels_and_pixels(tmp_path: Path) -> None:
    write_binary(tmp_path)
    data = named.load("cifar10", tmp_path)
    assert data.class_names[:2] + data.class_names[-1:] == ["airplane", "automobile", "truck"]
    train, test = data.id_sets["train"], data.id_sets["test"]
    assert train.labels == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
    assert test.labels == [3, 8, 0]
    assert train.names[3] == "data_batch_2.bin/1"
    preprocessing = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    (batch,) = train.subset([3, 8]).batches(preprocessing, 4)
    for image, (file, row) in zip(batch.images, ((2, 1), (5, 0)), strict=True):
        planes = (tmp_path / f"data_batch_{file}.bin").read_bytes()[row * 3073 + 1 :][:3072]
        expected = np.frombuffer(planes, np.uint8).reshape(3, 32, 32)
        assert np.array_equal((image * 255).round().numpy(), expected)
    assert data.remarks == [
        "cifar10 train has 10 of 50,000 images.",
        "cifar10 test has 3 of 10,000 images.",
    ]
    assert data.ood_sets == []


def test_binary_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    root = tmp_path / "cifar-100-binary"
    write_records(root / "test.bin", [99, 0, 42], before=b"\x07")
    (root / "fine_label_names.txt").write_text("\n".join(cifar.CIFAR100.classes) + "\n\n")
    data = named.load("cifar100", tmp_path)
    assert data.id_sets["test"].labels == [99, 0, 42]
    assert data.id_sets.keys() == {"test"}
    assert data.remarks[0] == "There are no train images."
    (root / "fine_label_names.txt").write_text("ape\n" + "\n".join(cifar.CIFAR100.classes[1:]))
    with pytest.raises(InvalidInput, match="calls class 0 'ape', which in cifar100 is 'apple'"):
        named.load("cifar100", tmp_path)


def test_damaged_or_partial_binaries_are_refused(tmp_path: Path) -> None:
    write_binary(tmp_path)
    whole = (tmp_path / "test_batch.bin").read_bytes()
    (tmp_path / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(InvalidInput, match="9,218 bytes are no whole number of records of 3,073"):
        named.load("cifar10", tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(InvalidInput, match="states the class 10, of 10 classes"):
        named.load("cifar10", tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"")
    with pytest.raises(NotEnoughImages, match="is empty"):
        named.load("cifar10", tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(InvalidInput, match="lacks 'data_batch_2.bin', 'data_batch_4.bin'"):
        named.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("cifar10", "cifar-10-batches-py", ["batches.meta", "data_batch_1", "test_batch"]),
        ("cifar100", "cifar-100-python", ["meta", "train", "test"]),
    ],
)
def test_the_pickled_version_is_refused(
    tmp_path: Path, name: str, folder: str, files: list[str]
) -> None:
    (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / folder / file).write_bytes(b"\x80\x04.")
    for root in (tmp_path, tmp_path / folder):
        with pytest.raises(InvalidInput, match="holds pickles.*download the binary version"):
            named.load(name, root)


def test_folders_of_cifar10_get_the_official_indices(tmp_path: Path) -> None:
    folders = tuple(name.capitalize() for name in cifar.CIFAR10.classes)
    for split, count in (("train", 2), ("test", 1)):
        for name in folders:
            write_images(tmp_path / split / name, count, ".png")
    data = named.load("cifar10", tmp_path)
    assert folders_of(data, "train") == {(name, index) for index, name in enumerate(folders)}
    assert [len(data.id_sets[split]) for split in ("train", "test")] == [20, 10]
    (tmp_path / "test" / "Frog").rename(tmp_path / "frog")
    with pytest.raises(InvalidInput, match="lacks 1 folder, 'frog': cifar10 is the binary"):
        named.load("cifar10", tmp_path)


def test_folders_of_cifar100_get_the_official_indices(tmp_path: Path) -> None:
    write_classes(tmp_path / "inner" / "test", cifar.CIFAR100.classes, 1)
    data = named.load("cifar100", tmp_path)
    assert folders_of(data, "test") == {(n, i) for i, n in enumerate(cifar.CIFAR100.classes)}
    with pytest.raises(InvalidInput, match="There is no cifar10 in"):
        named.load("cifar10", tmp_path)


def test_arrays_of_cifar_are_labelled_and_never_unpickled(tmp_path: Path) -> None:
    write_arrays(tmp_path / "cifar10_train10k.npz", [4, 0])
    write_arrays(tmp_path / "cifar100_test.npz", [99], names=np.array(cifar.CIFAR100.classes))
    data = named.load("cifar10", tmp_path)
    assert data.id_sets["train"].labels == [4, 0]
    assert ood_of(data) == [("cifar100", "near", 1)]
    assert data.ood_sets[0].images.labels is None
    assert named.load("cifar100", tmp_path).class_names == list(cifar.CIFAR100.classes)
    write_arrays(tmp_path / "cifar10_train.npz", [1])
    with pytest.raises(InvalidInput, match="more than one train set"):
        named.load("cifar10", tmp_path)
    (tmp_path / "cifar10_train.npz").unlink()
    write_arrays(tmp_path / "cifar10_train10k.npz", [10])
    with pytest.raises(InvalidInput, match="class indices from 0 to 9"):
        named.load("cifar10", tmp_path)
    write_arrays(tmp_path / "cifar10_train10k.npz", [1], names=np.array([{"a": 1}], object))
    with pytest.raises(InvalidInput, match="Cannot read the arrays"):
        named.load("cifar10", tmp_path)
    write_arrays(tmp_path / "cifar10_train10k.npz", [1], names=np.array(["airplane"]))
    with pytest.raises(InvalidInput, match="names 1 classes; cifar10 has 10"):
        named.load("cifar10", tmp_path)


def test_sets_beside_cifar_are_offered_as_ood(tmp_path: Path) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    write_records(tmp_path / "cifar-100-binary" / "test.bin", [5], before=b"\x01")
    write_records(tmp_path / "cifar-100-binary" / "train.bin", [5, 6], before=b"\x01")
    np.savez(tmp_path / "mnist.npz", test_images=np.zeros((4, 28, 28), np.uint8))
    write_tar(tmp_path / "medical_mnist.tar", 1)
    (tmp_path / "tiny_imagenet_3000.tar").write_bytes((tmp_path / "medical_mnist.tar").read_bytes())
    data = named.load("cifar10", tmp_path)
    assert ood_of(data) == [
        ("cifar100", "near", 1),
        ("tiny-imagenet", "near", 6),
        ("mnist", "far", 4),
        ("medical-mnist", "far", 6),
    ]
    assert all(ood.images.labels is None for ood in data.ood_sets)
    assert "Tiny ImageNet" in data.remarks[-1]
    assert ood_of(named.load("cifar100", tmp_path))[0] == ("cifar10", "near", 3)
    np.savez(tmp_path / "mnist.npz", other=np.zeros(3))
    with pytest.raises(InvalidInput, match="must have uint8 'test_images'"):
        named.load("cifar10", tmp_path)


# ImageNet


@pytest.fixture(scope="module")
def imagenet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_wnids(root / "imagenet" / "val", 1_000)
    write_images(root / "imagenet" / "iNaturalist" / "images", 3)
    write_images(root / "dtd" / "images" / "banded", 2)
    write_images(root / "dtd" / "labels_as_pictures", 1)
    write_images(root / "SUN", 1)
    return root


def test_imagenet_numbers_sorted_wnids_and_finds_the_sets_beside(imagenet_root: Path) -> None:
    data = named.load("imagenet", imagenet_root)
    assert data.class_names == sorted(data.class_names)
    assert folders_of(data, "val") == {(w, index) for index, w in enumerate(data.class_names)}
    assert ood_of(data) == [("iNaturalist", "far", 3), ("SUN", "far", 1), ("Textures", "far", 2)]
    assert "imagenet val has 1,000 of 50,000 images." in data.remarks
    assert "Textures has 2 of 5,640 images." in data.remarks
    assert any(remark.startswith("There is no Places") for remark in data.remarks)
    assert len(named.load("imagenet", imagenet_root / "imagenet").ood_sets) == 1


def test_imagenet_without_all_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lacks 1 folder, 'val'"):
        named.load("imagenet", tmp_path)
    write_images(tmp_path / "val", 3, ".JPEG")
    with pytest.raises(InvalidInput, match="0 of 1,000 class folders.*val itself must be sorted"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "val", 998)
    for path in (tmp_path / "val").glob("*.JPEG"):
        path.unlink()
    with pytest.raises(InvalidInput, match="998 of 1,000 class folders"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "train", 1_000)
    with pytest.raises(InvalidInput, match="lacks 2 folders, 'n00000998', 'n00000999'"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "val", imagenet.CLASSES)
    assert named.load("imagenet", tmp_path).id_sets.keys() == {"val", "train"}


# OpenMIBOOD


def test_openmibood_folders_are_id_shifted_near_and_far(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "bench" / "id" / split, ("mitosis", "imposter"))
    write_images(tmp_path / "bench" / "csid" / "scanner" / "mitosis" / "slide", 3)
    write_images(tmp_path / "bench" / "near" / "lymphoma" / "deep" / "down", 4)
    write_images(tmp_path / "bench" / "far" / "ccagt", 1)
    write_images(tmp_path / "bench" / "far" / "fnac", 2)
    data = named.load("openmibood", tmp_path)
    assert data.class_names == ["imposter", "mitosis"]
    assert data.id_sets.keys() == {"train", "test", "csid/scanner"}
    assert folders_of(data, "test") == {("imposter", 0), ("mitosis", 1)}
    assert data.id_sets["csid/scanner"].labels == [1, 1, 1]
    assert ood_of(data) == [("lymphoma", "near", 4), ("ccagt", "far", 1), ("fnac", "far", 2)]
    assert data.remarks == []


def test_openmibood_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lacks 1 folder, 'id': openmibood is"):
        named.load("openmibood", tmp_path)
    write_classes(tmp_path / "id", ("a", "b"))
    with pytest.raises(InvalidInput, match="lacks 2 folders, 'near', 'far'"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "far")
    with pytest.raises(InvalidInput, match="no folder of a set"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "far" / "x")
    data = named.load("openmibood", tmp_path)
    assert folders_of(data) == {("a", 0), ("b", 1)}
    assert data.remarks[0].startswith("There is no near OOD set")
    write_images(tmp_path / "csid" / "other" / "c")
    with pytest.raises(InvalidInput, match="'c', which is none of the classes"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "id" / "train" / "a")
    with pytest.raises(InvalidInput, match="both 'train' and 'a'"):
        named.load("openmibood", tmp_path)


def test_openmibood_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "id" / "train", ("a", "b"))
    write_classes(tmp_path / "id" / "test", ("a",))
    write_images(tmp_path / "near" / "x")
    with pytest.raises(InvalidInput, match="test' lacks 1 folder, 'b'"):
        named.load("openmibood", tmp_path)


# The registry


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
