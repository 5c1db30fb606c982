"""Writes tiny folders and files in the layouts of benchmark data sets."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from neroli.data.named import NamedData, gastro, medical_mnist

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


def write_cifar_downloads(root: Path) -> None:
    """The usual downloads beside each other: both CIFARs, and the other sets."""
    for number in range(1, 6):
        write_records(root / "cifar-10-batches-bin" / f"data_batch_{number}.bin", [number, 0])
    write_records(root / "cifar-10-batches-bin" / "test_batch.bin", [3, 8, 0])
    write_records(root / "cifar-100-binary" / "train.bin", [5, 6], before=b"\x01")
    write_records(root / "cifar-100-binary" / "test.bin", [5, 6, 7, 8, 9], before=b"\x01")
    write_images(root / "tiny-imagenet-200" / "val" / "images", 4, ".JPEG")
    np.savez(root / "mnist.npz", x_test=np.zeros((6, 28, 28), np.uint8))
    write_classes(root / "medical-mnist", ("Hand", "CXR"), 2)
    for name in ("cifar10_resnet20", "cifar10_densenet100", "cifar100_densenet100"):
        (root / "models").mkdir(exist_ok=True)
        (root / "models" / f"{name}.safetensors").write_bytes(b"")


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


def write_medical_tar(path: Path, count: int) -> None:
    """Images of every kind of examination in the layout of the archive."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    with tarfile.open(path, "w") as archive:
        for name in medical_mnist.MEDICAL_MNIST.classes:
            for number in range(count):
                member = tarfile.TarInfo(f"{name}/{number:06d}.jpeg")
                member.size = len(file.getvalue())
                archive.addfile(member, io.BytesIO(file.getvalue()))
