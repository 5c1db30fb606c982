"""From a suite and a data folder to images; what is missing is listed with where to get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neroli.benchmark.needs import Need, merged
from neroli.benchmark.schema import ALL_SETS, Images, OODImages, Suite
from neroli.data import named
from neroli.data.joining import joined
from neroli.data.named.layouts import listed
from neroli.data.named.sets import NamedData, OODSet
from neroli.data.opening import open_images
from neroli.data.pictures import Pictures
from neroli.data.splitting import split
from neroli.errors import InvalidInput, MissingData, NeroliError

_NOWHERE = Path("DIR")
"""Stands for the data folder where none is given."""


@dataclass(frozen=True, eq=False)
class BenchmarkImages:
    """What a benchmark runs on.

    Attributes:
        class_names: in the order of the class indices, if the data set defines them; None leaves
            them to the model.
        train, calibration, test: ID images; their labels are class indices where the data set
            defines them, else as stated (``neroli.extraction.with_classes``).
        ood: sets without labels, each with a name of its own.
        remarks: what users should know of the data.
    """

    class_names: list[str] | None
    train: Pictures
    calibration: Pictures | None
    test: Pictures
    ood: list[OODSet]
    remarks: list[str] = field(default_factory=list)


def benchmark_images(suite: Suite, data: Path | None = None) -> BenchmarkImages:
    """The images of a suite; they are read when they are needed.

    Args:
        suite: which.
        data: the folder that its paths are relative to and its data sets are in, themselves or in
            a folder ``data`` in it; None looks beside the suite file.

    Raises:
        MissingData: if images or weights are not there or cannot be used; lists all of them.
        InvalidInput: if OOD sets share a name, or images cannot be taken one by one (a video).
        NotEnoughImages: if there are too few to split.
    """
    search = _Search(suite, data)
    id_sets = {role: search.id_set(role, images) for role, images in suite.id.roles()}
    ood = [found for entry in suite.ood for found in search.ood_sets(entry)]
    search.weights()
    search.check()
    names = [each.name for each in ood]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidInput(
            f"The suite {suite.name!r} has several OOD sets called {repeated[0]!r}: name them "
            "apart."
        )
    images = {role: found for role, found in id_sets.items() if found is not None}
    if "all" in images:
        train, calibration, test = _split(images["all"], suite.id.split, suite.seed)
    else:
        train, calibration, test = images["train"], images.get("calibration"), images["test"]
    return BenchmarkImages(
        search.class_names, train, calibration, test, ood, list(dict.fromkeys(search.remarks))
    )


def weights_file(suite: Suite, data: Path | None = None) -> Path | None:
    """The file of the model's weights; None if there is none to load.

    Raises:
        InvalidInput: if the suite leaves the model to the user.
        MissingData: if no such file is there.
    """
    if not suite.model.spec and suite.model.training is None:
        raise InvalidInput(
            f"The suite {suite.name!r} is for a model of your own: name it with --model, and its "
            "weights with --weights."
        )
    search = _Search(suite, data)
    found = search.weights()
    search.check()
    return found


def pretrained_file(suite: Suite, data: Path | None = None) -> Path | None:
    """The weights that training begins with; None if the suite names none or none is there."""
    training = suite.model.training
    places = _Search(suite, data).places(training.pretrained if training else ())
    return next((place for place in places if place.is_file()), None)


class _Search:
    """Looks for the files of a suite and notes what is missing.

    Raises:
        InvalidInput: if the data folder is none.
    """

    def __init__(self, suite: Suite, data: Path | None) -> None:
        if data is not None and not data.is_dir():
            raise InvalidInput(f"The data folder {str(data)!r} is not there, or no folder.")
        self.suite = suite
        self.remarks: list[str] = []
        self.class_names: list[str] | None = None
        beside = [] if suite._file is None else [suite._file.parent]
        below = [] if data is None else [p for p in (data / "data", data) if p.is_dir()]
        self._roots = below or beside
        self._weights_roots = [*below, *beside]
        self._missing: list[Need] = []
        self._loaded: dict[tuple[object, ...], NamedData | NeroliError] = {}

    def check(self) -> None:
        """Raise MissingData if anything was."""
        if not self._missing:
            return
        asks = any(
            Path(place).parts[0] == _NOWHERE.name for n in self._missing for place in n.places
        )
        where = f"; say where your data are with --data {_NOWHERE}" if asks else ""
        lines = [f"The suite {self.suite.name!r} lacks files{where}:"]
        lines += [f"- {need}" for need in merged(self._missing)]
        raise MissingData("\n".join(lines))

    def places(self, paths: Sequence[str], roots: Sequence[Path] | None = None) -> list[Path]:
        """Where the paths may be, all places of the first alternative first."""
        bases = (self._roots if roots is None else roots) or [_NOWHERE]
        return list(dict.fromkeys(base / path for path in paths for base in bases))

    def weights(self) -> Path | None:
        """The first of the model's weights files that is there."""
        places = self.places(self.suite.model.weights, self._weights_roots)
        found = next((place for place in places if place.is_file()), None)
        if places and found is None:
            self._lack("weights", places, self.suite.model.download)
        return found

    def id_set(self, role: str, images: Images) -> Pictures | None:
        """ID images; the classes and remarks of their data set are kept."""
        found: Pictures | None
        if images.dataset is None:
            found = self._at_path(f"ID {role}", images)
        else:
            data = self._data_set(f"ID {role}", images, lambda data: list(data.id_sets))
            if data is None:
                return None
            self.class_names = data.class_names
            self.remarks += data.remarks
            found = data.id_sets[str(images.part)]
        return found and _thinned(found, images.every)

    def ood_sets(self, entry: OODImages) -> list[OODSet]:
        """The OOD sets of an entry of the suite."""
        images = entry.images
        what = f"OOD {entry.name or 'sets'}"
        sets: list[OODSet] = []
        if images.dataset is None:
            found = self._at_path(what, images)
            sets = [OODSet("", found, None)] if found else []
        elif data := self._data_set(what, images, _ood_parts):
            wanted = [each for each in data.ood_sets if images.part in (each.name, ALL_SETS)]
            sets = wanted or [OODSet("", data.id_sets[str(images.part)], None)]
        if sets and entry.join:
            sets = [OODSet("", joined([each.images for each in sets]), None)]
        return [
            OODSet(
                entry.name or each.name,
                _thinned(each.images.unlabelled(), images.every * entry.every),
                entry.nearness or each.nearness,
            )
            for each in sets
        ]

    def _at_path(self, what: str, images: Images) -> Pictures | None:
        """The images at the first of the paths that has any."""
        reasons = []
        places = self.places(images.path)
        for place in filter(_is_there, places):
            try:
                source = open_images(place)
            except NeroliError as error:
                reasons.append(str(error))
                continue
            if isinstance(source, Pictures):
                return source
            raise InvalidInput(f"{str(place)!r} has no single images: a benchmark takes no video.")
        self._lack(what, places, images.download, reasons)
        return None

    def _data_set(
        self, what: str, images: Images, parts: Callable[[NamedData], list[str]]
    ) -> NamedData | None:
        """The named data set, from the first place where it has the part."""
        assert images.dataset is not None
        if named.is_embedded(images.dataset):
            places: list[Path] = []
            tried: list[Path | None] = [None]
        else:
            places = self.places(images.place or (".",))
            tried = [place for place in (*self.places((".",)), *places) if _is_there(place)]
        reasons = []
        for place in dict.fromkeys(tried):
            data = self._load(images, place)
            if isinstance(data, NeroliError):
                reasons.append(str(data))
            elif images.part in parts(data):
                return data
            else:
                has = listed(parts(data)) or "none"
                reasons.append(f"{images.dataset} has no part {images.part!r} there, it has {has}")
        self._lack(what, places, images.download, reasons)
        return None

    def _load(self, images: Images, place: Path | None) -> NamedData | NeroliError:
        key = (images.dataset, place, *images.choices.items())
        if key not in self._loaded:
            try:
                self._loaded[key] = named.load(str(images.dataset), place, **images.choices)
            except NeroliError as error:
                self._loaded[key] = error
        return self._loaded[key]

    def _lack(
        self, what: str, places: Sequence[Path], download: str, reasons: Sequence[str] = ()
    ) -> None:
        """Note that something is missing, each reason once."""
        told = {reason for need in self._missing for reason in need.reasons}
        new = tuple(reason for reason in dict.fromkeys(reasons) if reason not in told)
        self._missing.append(Need([what], tuple(map(str, places)), download, new))


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # a name too long
        return False


def _ood_parts(data: NamedData) -> list[str]:
    """The parts of a data set that can be OOD images of a benchmark."""
    names = [each.name for each in data.ood_sets]
    return [*names, *([ALL_SETS] if names else []), *data.id_sets]


def _thinned(images: Pictures, every: int) -> Pictures:
    return images if every == 1 else images.subset(range(0, len(images), every))


def _split(
    images: Pictures, shares: tuple[float, float, float], seed: int
) -> tuple[Pictures, Pictures | None, Pictures]:
    """Training, calibration and test images; no calibration images for a share of 0."""
    _, calibration, test = shares
    rest, held_out = split(images, test, seed)
    if not calibration:
        return rest, None, held_out
    share = calibration / (1 - test) - 1e-9  # what rounding adds would be rounded up to an image
    return *split(rest, share, seed), held_out
