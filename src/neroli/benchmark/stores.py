"""The activations of a benchmark's sets: each image goes through the network once, and is kept."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from neroli.benchmark.entries import Entry, needed
from neroli.benchmark.isolation import reason_of
from neroli.benchmark.results import Failed, Forward
from neroli.classifier import Classifier
from neroli.data.pictures import Pictures
from neroli.errors import NotEnoughImages
from neroli.extraction import extract, find_head, stored, with_classes
from neroli.files import atomic_path, text_digest
from neroli.store import ActivationStore
from neroli.taps import NOTHING, Kept, Requirements

OOD = "ood/"
"""Before the names of OOD sets, to tell them from train, calibration and test."""
KEPT = "kept.json"
"""In a folder of stores: what they keep."""


@dataclass(frozen=True, eq=False)
class Stores:
    """The activations of the sets by name, and what it took to get them.

    Attributes:
        pictures: the images by set.
        of: their activations by set.
        forward: the network's own time in this run.
    """

    pictures: Mapping[str, Pictures]
    of: Mapping[str, ActivationStore]
    forward: Forward

    @property
    def ood(self) -> dict[str, ActivationStore]:
        """Those of the OOD sets, by their own names."""
        return {n.removeprefix(OOD): store for n, store in self.of.items() if n.startswith(OOD)}


def runnable(
    entries: Sequence[Entry], classifier: Classifier, pictures: Pictures
) -> tuple[list[Entry], list[Failed]]:
    """The detectors for which the model has what they need, and why it has not for the others.

    Args:
        entries: what should take part.
        classifier: the model; its head is found on the way.
        pictures: of which the first readable ones are tried.

    Raises:
        HeadNotFound, InvalidInput, NotEnoughImages: if the model cannot be run at all.
    """
    find_head(classifier, pictures)
    batches = pictures.batches(classifier.preprocessing, 2, shape=classifier.input_shape)
    few = next(batch.images for batch in batches if len(batch.images))
    tried: dict[Requirements, float | str] = {NOTHING: 1.0}
    able, failures = [], []
    for entry in entries:
        requires = needed([entry])
        if requires not in tried:
            tried[requires] = _tried(classifier, few, requires)
        found = tried[requires]
        if isinstance(found, str):
            failures.append(Failed(label=entry.label, reason=found))
        else:
            able.append(replace(entry, network_ratio=found))
    return able, failures


def extract_all(
    classifier: Classifier,
    sets: Mapping[str, Pictures],
    requires: Requirements,
    folder: Path,
    *,
    batch_size: int,
    progress: bool | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Stores:
    """The activations of all sets, those that are there already as they are.

    Args:
        classifier: what to run.
        sets: the images by set; labels are kept where they are class indices.
        requires: what to keep beside features and logits.
        folder: where; activations with other requirements stay beside these, and are used if they
            hold all that is required.
        batch_size, progress: as in ``neroli.extract``.
        say: told what is being done.

    Raises:
        NotEnoughImages, InvalidInput, ArtefactError: as ``neroli.extract``.
    """
    find_head(classifier, next(iter(sets.values())), requires)
    if (found := _with_all(classifier, sets, requires.kept, folder)) is not None:
        return Stores(dict(sets), found, Forward(images=0, seconds=0.0))
    kept = json.dumps(asdict(requires.kept), sort_keys=True)
    kind = text_digest([kept])[:8]
    with atomic_path(folder / kind / KEPT) as path:
        path.write_text(kept)
    stores: dict[str, ActivationStore] = {}
    images, seconds = 0, 0.0
    for name, pictures in sets.items():
        path = folder / kind / file_name(name)
        before = _stamps(path)
        say(f"{name}: {len(pictures):,} images ...")
        start = time.perf_counter()
        try:
            stores[name] = extract(
                classifier,
                pictures,
                path,
                batch_size=batch_size,
                requires=requires,
                progress=progress,
            )
        except NotEnoughImages as error:
            raise NotEnoughImages(f"{name.removeprefix(OOD)!r}: {error}") from None
        if _stamps(path) != before:
            images += len(stores[name])
            seconds += time.perf_counter() - start
    return Stores(dict(sets), stores, Forward(images=images, seconds=seconds))


def _with_all(
    classifier: Classifier, sets: Mapping[str, Pictures], needed: Kept, folder: Path
) -> dict[str, ActivationStore] | None:
    """Complete stores of all sets that keep at least what is needed, of an earlier run."""
    for path in sorted(folder.glob(f"*/{KEPT}")):
        kept = _read_kept(path)
        if kept is None or not kept.holds(needed):
            continue
        found = {
            name: stored(classifier, pictures, path.parent / file_name(name), kept)
            for name, pictures in sets.items()
        }
        whole = {name: store for name, store in found.items() if store is not None}
        if len(whole) == len(sets):
            return whole
    return None


def _read_kept(path: Path) -> Kept | None:
    try:
        found = json.loads(path.read_text())
        return Kept(tuple(found["taps"]), bool(found["prepool"]), tuple(found["probes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_name(name: str) -> str:
    """A name for files of what is called so: readable, and of no other name the same."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower())[:40]}-{text_digest([name])[:8]}"


def labelled(classifier: Classifier, pictures: Pictures, class_map: Path | None) -> Pictures:
    """ID images with the classifier's classes as labels, which they may have already.

    The classifier takes their names if it states none.

    Raises:
        ClassMapError, InvalidInput, NotEnoughImages: as ``neroli.extraction.with_classes``.
    """
    found, match = with_classes(classifier, pictures, class_map)
    if classifier.class_names is None and match is not None:
        classifier.class_names = match.names(classifier.head.num_classes)
    return found


def readable_positions(pictures: Pictures, store: ActivationStore) -> list[int]:
    """Where the images of a store's rows stand among the pictures: unreadable ones have no row."""
    failed = [failure.name for failure in store.failures]
    positions = []
    for position, name in enumerate(pictures.names):
        if failed and failed[0] == name:
            failed.pop(0)  # they are recorded in order
        else:
            positions.append(position)
    return positions


def _tried(classifier: Classifier, few: object, requires: Requirements) -> float | str:
    """How long the network takes with what is required beside a plain run, or why it fails."""
    classifier = classifier.as_it_is()  # each requirement would be compiled anew
    try:
        classifier(few, requires=requires)
    except Exception as error:  # of the model, which may not like to be run otherwise
        return reason_of(error)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        classifier(few)
        plain = time.perf_counter() - start
        classifier(few, requires=requires)
        ratios.append((time.perf_counter() - start - plain) / plain)
    return statistics.median(ratios)


def _stamps(path: Path) -> list[int]:
    """When the shards of a store were written."""
    return [shard.stat().st_mtime_ns for shard in sorted(path.glob("shard-*"))]
