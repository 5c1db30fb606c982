"""CIFAR by name, in each of its layouts."""

from pathlib import Path

import numpy as np
import pytest

from layouts import (
    folders_of,
    ood_of,
    write_arrays,
    write_classes,
    write_images,
    write_medical_tar,
    write_records,
)
from neroli.data import named
from neroli.data.named import cifar
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages


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
    write_medical_tar(tmp_path / "medical_mnist.tar", 1)
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
