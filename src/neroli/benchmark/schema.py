"""What a suite file says: the model, the images, the detectors. Wrong keys are named by their path.

The reading itself is in ``suite``; what is said here about files is resolved in ``images``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, field_validator, model_validator

from neroli.data import named
from neroli.data.named.sets import Nearness
from neroli.data.preprocessing import MAX_SIDE, Preprocessing
from neroli.detectors import catalogue, create
from neroli.errors import InvalidInput

GROUPS = ("all", "one-pass", "head")
"""What ``detectors`` may say in place of names: every detector; those for which one plain run of
the network is enough; those that need features and logits alone."""

ALL_SETS = "*"
"""The ``part`` of a data set that is all its OOD sets."""


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _listed(value: Any) -> Any:
    """One path as a list of it."""
    return [value] if isinstance(value, str) else value


FilePath = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]*$")]
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Paths = Annotated[tuple[FilePath, ...], pydantic.BeforeValidator(_listed)]
"""Alternatives, tried in order; a single one may be written without brackets."""
Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Share = Annotated[float, Field(ge=0, le=1)]


class Images(_Part):
    """Where images are: a path, written alone or in a table, or a part of a named data set.

    Attributes:
        path: anything ``neroli.data.opening.open_images`` takes, or alternatives; relative to the
            data folder if one is given, else to the suite file.
        dataset: one of ``neroli.data.named``, in place of a path.
        part: which of its ID splits ("train", "test", "all"), or which of its OOD sets by name; "*"
            are all OOD sets.
        place: where its download belongs, tried after the data folder itself; alternatives.
        id_classes, ood_classes: choices that the data set offers.
        every: only every n-th image is taken.
        download: where they come from, shown when they are missing.
    """

    path: Paths = ()
    dataset: str | None = None
    part: str | None = None
    place: Paths = ()
    id_classes: tuple[str, ...] | None = None
    ood_classes: tuple[str, ...] | None = None
    every: Positive = 1
    download: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | list | tuple) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Images:
        if (not self.path) == (self.dataset is None):
            raise ValueError("must have either a path or a dataset")
        if self.dataset is None:
            own = (self.part, self.place or None, self.id_classes, self.ood_classes)
            if any(value is not None for value in own):
                raise ValueError("has part, place or choices, which only a dataset has")
        else:
            if self.part is None:
                raise ValueError("must say which part of the dataset is meant")
            named.check(self.dataset, **self.choices)
        return self

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Those made."""
        made = {"id_classes": self.id_classes, "ood_classes": self.ood_classes}
        return {name: classes for name, classes in made.items() if classes is not None}


class Training(_Part):
    """How neroli trains the model: its architecture, and what differs from the usual recipe.

    Attributes:
        arch: as the ``spec`` of a model.
        pretrained: weights to begin with, if they are there; alternatives.
        download: where these come from.
    """

    arch: str = Field(min_length=1)
    pretrained: Paths = ()
    download: str = ""
    epochs: Positive | None = None
    validate_every: Positive | None = None
    batch_size: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    size: Side | tuple[Side, Side] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: Share | None = None
    jitter: Share | None = None
    invert: Share | None = None
    equalise: Share | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """What the file says of the recipe, by name."""
        own = self.model_dump(exclude_unset=True)
        return {name: own[name] for name in own if name not in ("arch", "pretrained", "download")}


class Model(_Part):
    """The classifier.

    Attributes:
        spec: as `neroli fit --model`; empty if the user must name it.
        weights: its file, or alternatives; below the data folder or beside the suite file.
        download: where the weights come from.
        head: path of the last linear layer; found when left out.
        preprocessing: in place of what the model states.
        layers: those that detectors of layers look at, unless their settings say.
        training: neroli trains it on the training images, in place of spec and weights.
    """

    spec: str = ""
    weights: Paths = ()
    download: str = ""
    head: str | None = None
    preprocessing: Preprocessing | None = None
    layers: tuple[str, ...] = ()
    training: Training | None = None

    @model_validator(mode="after")
    def _given_or_trained(self) -> Model:
        if self.training is not None and (self.spec or self.weights or self.preprocessing):
            raise ValueError("is trained, so it must not have spec, weights or preprocessing too")
        return self


class IDImages(_Part):
    """The in-distribution images: train, test and perhaps calibration, or all and how to split it.

    Attributes:
        split: shares of all images that go to training, calibration and test; sum to 1.
    """

    train: Images | None = None
    calibration: Images | None = None
    test: Images | None = None
    all: Images | None = None
    split: tuple[Share, Share, Share] = (0.6, 0.2, 0.2)

    @field_validator("train", "calibration", "test", "all")
    @classmethod
    def _one_set(cls, images: Images | None) -> Images | None:
        if images is not None and images.part == ALL_SETS:
            raise ValueError('must name one part: "*" are OOD sets')
        return images

    @field_validator("split")
    @classmethod
    def _whole(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        if not math.isclose(sum(split), 1, abs_tol=1e-6) or not split[0] or not split[2]:
            raise ValueError("must be shares of train, calibration and test that sum to 1")
        return split

    @model_validator(mode="after")
    def _one_way(self) -> IDImages:
        if self.all is None and (self.train is None or self.test is None):
            raise ValueError("must have train and test, or all")
        if self.all is not None and (self.train or self.calibration or self.test):
            raise ValueError("must have either all, or train and test, not both")
        if self.all is None and "split" in self.model_fields_set:
            raise ValueError("has a split, which is of all, not of train and test")
        return self

    def roles(self) -> Iterator[tuple[str, Images]]:
        """What is given, by key."""
        for role in ("train", "calibration", "test", "all"):
            images = getattr(self, role)
            if images is not None:
                yield role, images


class OODImages(_Part):
    """A set of images of other things, or all OOD sets of a data set (part "*").

    Attributes:
        name: unique; of part "*" each set has its own, unless they are joined.
        nearness: how like the ID images they are; of part "*" as the data set says.
        every: only every n-th image is taken.
        join: make the sets of part "*" one.
    """

    name: Label | None = None
    nearness: Nearness | None = None
    images: Images
    every: Positive = 1
    join: bool = False

    @model_validator(mode="after")
    def _named(self) -> OODImages:
        several = self.images.part == ALL_SETS and not self.join
        if self.join and self.images.part != ALL_SETS:
            raise ValueError('joins sets, which needs part = "*"')
        if several and (self.name or self.nearness):
            raise ValueError("takes the sets by their own names and nearness, unless join is true")
        if not several and not self.name:
            raise ValueError("must have a name")
        if not several and self.nearness is None:
            raise ValueError('must say its nearness, "near" or "far"')
        return self


class DetectorRow(_Part):
    """One detector with its settings.

    Attributes:
        name: as `neroli detectors` lists it.
        label: what it is called in tables, unique; without one it is the name.
        settings: hyper-parameters that differ from the defaults.
    """

    name: str
    label: Label | None = None
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known(self) -> DetectorRow:
        create(self.name, **self.settings)
        return self

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return self.label or self.name


class PublishedTable(_Part):
    """Whose table to show beside the results."""

    paper: str
    id_set: str
    model: str


class Suite(_Part):
    """What a benchmark runs on.

    Attributes:
        detectors: one of ``GROUPS``, or names.
        detector: further rows; one without a label stands in for the plain row of its detector.
    """

    name: Label
    about: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: Model = Model()
    id: IDImages
    ood: tuple[OODImages, ...] = Field(min_length=1)
    detectors: str | tuple[str, ...] = "one-pass"
    detector: tuple[DetectorRow, ...] = ()
    published: PublishedTable | None = None

    _file: Path | None = pydantic.PrivateAttr(None)
    """The suite file, which paths without a data folder are relative to; None of built-in ones."""

    @field_validator("detectors")
    @classmethod
    def _known(cls, detectors: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(detectors, str):
            if detectors not in GROUPS:
                groups = ", ".join(f'"{group}"' for group in GROUPS)
                raise ValueError(f'must be {groups} or a list of names, got "{detectors}"')
        else:
            for name in detectors:
                create(name)
            _check_unique(detectors, "names")
        return detectors

    @model_validator(mode="after")
    def _unique(self) -> Suite:
        _check_unique([ood.name for ood in self.ood if ood.name], "OOD sets called")
        _check_unique([row.title for row in self.rows()], "detector rows labelled")
        return self

    def rows(self) -> tuple[DetectorRow, ...]:
        """The detectors to run, the plain ones first."""
        instead = {row.name for row in self.detector if row.label is None}
        names = group(self.detectors) if isinstance(self.detectors, str) else self.detectors
        plain = (DetectorRow(name=name) for name in names if name not in instead)
        return (*plain, *self.detector)

    def with_detectors(self, chosen: str | tuple[str, ...]) -> Suite:
        """The suite with other detectors; plain rows that had settings of their own keep them.

        Of a group its labelled rows stay too, of "all" every row.

        Args:
            chosen: one of ``GROUPS``, or names.

        Raises:
            InvalidInput: if a name is unknown, or named twice.
        """
        names = group(chosen) if chosen in GROUPS else chosen
        if not names:
            raise InvalidInput("No detector is named: give at least one, or 'head'.")
        rows = [row for row in self.detector if row.label is None or chosen in GROUPS]
        kept = tuple(row for row in rows if row.name in names or chosen == "all")
        for name in set(names) - {row.name for row in kept}:
            create(name)
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"The detector {name!r} is named twice.")
        return self.model_copy(update={"detectors": tuple(names), "detector": kept})


def group(name: str) -> list[str]:
    """The detectors of one of ``GROUPS``, by name."""
    detectors = {known: create(known) for known in catalogue.ready_names()}
    if name == "one-pass":
        return [known for known, each in detectors.items() if not each.requires.probes]
    if name == "head":
        return [known for known, each in detectors.items() if not catalogue.requirements(each)]
    return list(detectors)


def _check_unique(names: Sequence[str], what: str) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"has two {what} {repeated!r}")
