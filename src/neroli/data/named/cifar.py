"""CIFAR-10 and CIFAR-100, and the sets beside them that can stand for other images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from neroli.data.arrays import ArrayReader
from neroli.data.folders import stamp
from neroli.data.named.cifar_layouts import Cifar, npz_array
from neroli.data.named.layouts import count_remark, folders_with, only_folder
from neroli.data.named.sets import Benchmark, NamedData, Nearness, OODSet
from neroli.data.pictures import Pictures
from neroli.data.tars import ImageTar
from neroli.errors import InvalidInput

COUNTS = {"train": 50_000, "test": 10_000}

_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_FINE_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = Cifar(
    name="cifar10",
    classes=tuple(_NAMES.split()),
    binary_folder="cifar-10-batches-bin",
    binary_files={
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    label_bytes=1,
    pickled_files=("batches.meta",),
)

CIFAR100 = Cifar(
    name="cifar100",
    classes=tuple(_FINE_NAMES.split()),
    binary_folder="cifar-100-binary",
    binary_files={"train": ("train.bin",), "test": ("test.bin",)},
    label_bytes=2,  # the superclass, then the class
    pickled_files=("meta", "train", "test"),
)


def load(cifar: Cifar, other: Cifar, root: Path) -> NamedData:
    """One CIFAR below a folder, and OOD sets beside it; see ``neroli.data.named.load``.

    Args:
        cifar: which.
        other: the other one, whose test images are an OOD set if they are there.
        root: the folder.
    """
    folder = only_folder(root, cifar.is_in, cifar.name)
    if folder is None:
        if folders_with(root, cifar.is_pickled_in):
            raise InvalidInput(
                f"{str(root)!r} has the python version of {cifar.name}, which holds pickles, and "
                f"these can run any program: download the binary version ({cifar.binary_folder})."
            )
        raise InvalidInput(f"There is no {cifar.name} in {str(root)!r}: {cifar.layout}")
    found = {split: cifar.split(folder, split) for split in COUNTS}
    id_sets = {split: images for split, images in found.items() if images is not None}
    remarks = [f"There are no {split} images." for split in COUNTS if split not in id_sets]
    for split, images in id_sets.items():
        remarks += count_remark(f"{cifar.name} {split}", len(images), COUNTS[split])
    ood_sets = _beside(root, other)
    if any(ood_set.name == "tiny-imagenet" for ood_set in ood_sets):
        remarks.append("Some classes of Tiny ImageNet are CIFAR's too: not all its images are OOD.")
    return NamedData(cifar.name, list(cifar.classes), id_sets, ood_sets, remarks)


def _beside(root: Path, other: Cifar) -> list[OODSet]:
    """The OOD sets that lie in the folder that was given."""
    sets: list[tuple[str, Pictures | None, Nearness]] = [
        (other.name, other.split(place, "test"), "near")
        for place in folders_with(root, other.is_in)[:1]
    ]
    if (root / "tiny_imagenet_3000.tar").is_file():
        sets.append(("tiny-imagenet", ImageTar(root / "tiny_imagenet_3000.tar"), "near"))
    if (root / "mnist.npz").is_file():
        sets.append(("mnist", _mnist(root / "mnist.npz"), "far"))
    if (root / "medical_mnist.tar").is_file():
        sets.append(("medical-mnist", ImageTar(root / "medical_mnist.tar"), "far"))
    return [OODSet(n, images.unlabelled(), near) for n, images, near in sets if images is not None]


def _mnist(path: Path) -> Pictures:
    """The test digits, by the names of the arrays in neroli's or in Keras's file.

    Raises:
        InvalidInput: if it has none.
    """
    images = npz_array(path, ("test_images", "x_test", "images"))
    if images is None or images.dtype != np.uint8 or images.ndim != 3:
        raise InvalidInput(f"{str(path)!r} must have uint8 'test_images' [N, H, W].")
    return Pictures(ArrayReader(images, stamp(path)), [str(row) for row in range(len(images))])


def _benchmark(cifar: Cifar, other: Cifar, title: str) -> Benchmark:
    return Benchmark(
        cifar.name,
        f"{title} (Krizhevsky, 2009): 32x32 colour images. ID: all {len(cifar.classes)} classes, "
        "numbered in the official order; 50,000 in train, 10,000 in test. "
        f"On disk {cifar.layout} It has no OOD sets of its own; taken from the "
        f"same folder, where they are there: {other.name} (near), tiny_imagenet_3000.tar "
        "(near), mnist.npz (far) and medical_mnist.tar (far).",
        partial(load, cifar, other),
    )


BENCHMARKS = (_benchmark(CIFAR10, CIFAR100, "CIFAR-10"), _benchmark(CIFAR100, CIFAR10, "CIFAR-100"))
