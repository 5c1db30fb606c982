"""What a suite needs on disk: for what, where, and where to download it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neroli.benchmark.schema import Images, Suite
from neroli.data import named


@dataclass(eq=False)
class Need:
    """Something that must be on disk.

    Attributes:
        what: it is for, such as ``ID test``.
        places: paths, any of which will do.
        download: where it comes from.
        reasons: why what lies there cannot be used.
    """

    what: list[str]
    places: tuple[str, ...]
    download: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{', '.join(self.what)}: {' or '.join(map(repr, self.places))}"
        if self.reasons:
            text += f" ({'; '.join(reason.rstrip('.') for reason in self.reasons)})"
        return f"{text}. Download: {self.download}." if self.download else f"{text}."


def needs(suite: Suite) -> list[Need]:
    """All that a suite needs on disk, with places relative to the data folder."""
    return merged(
        Need([what], places, download) for what, places, download in _sources(suite) if places
    )


def _sources(suite: Suite) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """What is needed, where, and where it comes from."""
    sets = [(f"ID {role}", images) for role, images in suite.id.roles()]
    sets += [(f"OOD {each.name or 'sets'}", each.images) for each in suite.ood]
    for what, images in sets:
        if images.dataset is None or not named.is_embedded(images.dataset):
            yield what, _stated(images), images.download
    yield "weights", suite.model.weights, suite.model.download
    if suite.model.training is not None:
        pretrained = suite.model.training.pretrained
        yield "weights to begin training with, optional", pretrained, suite.model.training.download


def _stated(images: Images) -> tuple[str, ...]:
    """Where a suite says that images are; the data folder itself if it does not."""
    return images.path or images.place or (".",)


def merged(needed: Iterable[Need]) -> list[Need]:
    """One entry for all that is needed from the same place."""
    found: dict[tuple[tuple[str, ...], str], Need] = {}
    for need in needed:
        key = need.places, need.download
        known = found.setdefault(key, Need([], *key))
        known.what += need.what
        known.reasons += need.reasons
    return list(found.values())
