"""Folders split as OpenMIBOOD splits its benchmarks: ID, covariate-shifted ID, near and far OOD.

This is a generic folder layout after that benchmark's split into cs-ID, near and far. It does not
hold the file lists of its three benchmarks (MIDOG, PhaKIR and OASIS-3).
"""

from __future__ import annotations

from pathlib import Path

from neroli.data.folders import ImageFolder
from neroli.data.named.layouts import folder_names, missing_folders, only_folder
from neroli.data.named.sets import Benchmark, NamedData, Nearness, OODSet
from neroli.errors import InvalidInput

LAYOUT = (
    "openmibood is id/<class>/ (or id/train/<class>/ and id/test/<class>/), near/<set>/, "
    "far/<set>/, and perhaps csid/<set>/<class>/, with images at any depth below."
)
SPLITS = ("train", "val", "test")
NEARNESS: tuple[Nearness, ...] = ("near", "far")


def load(root: Path) -> NamedData:
    """The sets below a folder; see ``neroli.data.named.load``."""
    folder = only_folder(root, lambda path: (path / "id").is_dir(), "openmibood")
    if folder is None:
        raise missing_folders(["id"], root, LAYOUT)
    present = [nearness for nearness in NEARNESS if (folder / nearness).is_dir()]
    if not present:
        raise missing_folders(NEARNESS, folder, LAYOUT)
    places = _id_places(folder / "id")
    id_sets = {split: ImageFolder(place) for split, place in places.items()}
    class_names = sorted({name for images in id_sets.values() for name in images.label_names()})
    for split, images in id_sets.items():
        missing = sorted(set(class_names) - set(images.label_names()))
        if missing:
            raise missing_folders(missing, places[split], LAYOUT)
    indices = {name: index for index, name in enumerate(class_names)}
    labelled = {split: images.labelled(indices) for split, images in id_sets.items()}
    for name in _sets(folder / "csid"):
        shifted = ImageFolder(folder / "csid" / name)
        # A hospital or scanner need not have images of every class.
        seen = {label: indices[label] for label in shifted.stated_labels or () if label in indices}
        labelled[f"csid/{name}"] = shifted.labelled(seen)
    return NamedData(
        "openmibood",
        class_names,
        labelled,
        [
            OODSet(name, ImageFolder(folder / nearness / name).unlabelled(), nearness)
            for nearness in present
            for name in _sets(folder / nearness)
        ],
        [
            f"There is no {nearness} OOD set: its folder would be in {str(folder / nearness)!r}."
            for nearness in NEARNESS
            if nearness not in present
        ],
    )


def _id_places(folder: Path) -> dict[str, Path]:
    """The folder of each ID split, or of all ID images if they are not split."""
    names = folder_names(folder)
    splits = [split for split in SPLITS if split in names]
    others = sorted(set(names) - set(splits))
    if splits and others:
        raise InvalidInput(f"{str(folder)!r} has both {splits[0]!r} and {others[0]!r}: {LAYOUT}")
    return {split: folder / split for split in splits} or {"all": folder}


def _sets(folder: Path) -> list[str]:
    """The sets in a folder; none if it is not there.

    Raises:
        InvalidInput: if it is there, but has none.
    """
    if not folder.exists():
        return []
    names = folder_names(folder)
    if not names:
        raise InvalidInput(f"{str(folder)!r} has no folder of a set in it: {LAYOUT}")
    return names


BENCHMARKS = (
    Benchmark(
        "openmibood",
        "Folders split as in OpenMIBOOD (Gutbrod et al., 2025), whose three benchmarks are MIDOG, "
        "PhaKIR and OASIS-3: in-distribution, covariate-shifted ID (cs-ID), near and far OOD. This "
        f"is a generic layout after that split: {LAYOUT} ID: the class folders, numbered in sorted "
        "order; cs-ID sets are loaded among the ID ones, as 'csid/<set>'. OOD: each folder in near "
        "and far. How many images there are is up to you.",
        load,
    ),
)
