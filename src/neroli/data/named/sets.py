"""What a benchmark is before and after it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from neroli.data.pictures import Pictures

Nearness = Literal["near", "far"]


@dataclass(frozen=True, eq=False)
class OODSet:
    """Images that are of none of the classes.

    Args:
        name: what it is called in results.
        images: the images, without labels.
        nearness: how like the in-distribution images they are; None if nobody says.
    """

    name: str
    images: Pictures
    nearness: Nearness | None


@dataclass(frozen=True, eq=False)
class NamedData:
    """A benchmark as it lies on disk.

    Args:
        name: the benchmark.
        class_names: the in-distribution classes, in the order of their indices.
        id_sets: in-distribution images by split, labelled with class indices; the one split of data
            that come without is ``"all"``.
        ood_sets: images of other things.
        remarks: sentences users should know: images that are missing, choices that are neroli's.
    """

    name: str
    class_names: list[str]
    id_sets: Mapping[str, Pictures]
    ood_sets: list[OODSet] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be loaded by its name.

    Args:
        name: what users call it.
        about: a few sentences: what it is, the layout expected, the sets, how many images.
        load: makes the data from the folder, and from the choices as keyword arguments.
        choices: the keyword arguments that ``load`` takes.
        embedded: it comes with what neroli is installed with, so that its folder is not needed.
    """

    name: str
    about: str
    load: Callable[..., NamedData]
    choices: tuple[str, ...] = ()
    embedded: bool = False
