"""ImageNet-1k, and the four sets of other images that have been its OOD benchmark since MOS."""

from __future__ import annotations

import re
from pathlib import Path

from neroli.data.folders import ImageFolder
from neroli.data.named.layouts import (
    count_remark,
    folder_names,
    missing_folders,
    only_folder,
    simplified,
)
from neroli.data.named.sets import Benchmark, NamedData, OODSet
from neroli.errors import InvalidInput

CLASSES = 1_000
COUNTS = {"val": 50_000, "train": 1_281_167}
LAYOUT = (
    "imagenet is val/<wnid>/*.JPEG and perhaps train/<wnid>/*.JPEG, one folder for each of its "
    "1,000 classes (images that lie in val itself must be sorted into these first)."
)
WNID = re.compile(r"n\d{8}")

OOD_SETS = {
    "iNaturalist": (10_000, ("inaturalist",)),
    "SUN": (10_000, ("sun",)),
    "Places": (10_000, ("places", "places365")),
    "Textures": (5_640, ("dtd", "textures", "texture")),
}
"""Of each set, how many images its curated version has, and what its folder is called."""


def load(root: Path) -> NamedData:
    """ImageNet below a folder, and those OOD sets that are there; see ``neroli.data.named.load``.

    A class's index is the position of its wnid in sorted order.
    """
    folder = only_folder(root, lambda path: (path / "val").is_dir(), "ImageNet")
    if folder is None:
        raise missing_folders(["val"], root, LAYOUT)
    splits = [split for split in COUNTS if (folder / split).is_dir()]
    wnids = _wnids(folder, splits)
    indices = {wnid: index for index, wnid in enumerate(wnids)}
    id_sets = {split: ImageFolder(folder / split).labelled(indices) for split in splits}
    remarks = [r for s in splits for r in count_remark(f"imagenet {s}", len(id_sets[s]), COUNTS[s])]
    ood_sets = []
    for name, (expected, spellings) in OOD_SETS.items():
        place = _ood_folder(folder, spellings) or _ood_folder(root, spellings)
        if place is None:
            remarks.append(f"There is no {name}: its folder would be {str(root / name)!r}.")
            continue
        ood_sets.append(OODSet(name, ImageFolder(place).unlabelled(), "far"))
        remarks += count_remark(name, len(ood_sets[-1].images), expected)
    return NamedData("imagenet", wnids, id_sets, ood_sets, remarks)


def _wnids(folder: Path, splits: list[str]) -> list[str]:
    """All classes in sorted order.

    Raises:
        InvalidInput: if any is missing, which would shift the indices of those after it.
    """
    found = {s: set(filter(WNID.fullmatch, folder_names(folder / s))) for s in splits}
    wnids = set[str]().union(*found.values())
    if len(wnids) != CLASSES:
        raise InvalidInput(
            f"{str(folder)!r} has {len(wnids):,} of 1,000 class folders, so that class indices "
            f"would be wrong: {LAYOUT}"
        )
    for split in splits:
        missing = sorted(wnids - found[split])
        if missing:
            raise missing_folders(missing, folder / split, LAYOUT)
    return sorted(wnids)


def _ood_folder(root: Path, spellings: tuple[str, ...]) -> Path | None:
    for name in folder_names(root):
        if simplified(name) in spellings:
            images = root / name / "images"
            return images if images.is_dir() else root / name
    return None


BENCHMARKS = (
    Benchmark(
        "imagenet",
        "ImageNet-1k (Russakovsky et al., 2015) with the four far OOD sets curated for MOS (Huang "
        f"and Li, 2021): iNaturalist, SUN, Places and Textures. {LAYOUT} Beside val lie those OOD "
        "sets that you have: iNaturalist/images, SUN/images, Places/images, and dtd/images or "
        "Textures. ID: 1,000 classes, numbered in the sorted order of their wnids; 50,000 images "
        "in val, 1,281,167 in train. OOD: 10,000 images in each set, 5,640 in Textures.",
        load,
    ),
)
