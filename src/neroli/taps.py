"""Feature taps: what detectors need from inside the network, pooled while it runs.

A layer may return a map ``[N, C, H, W]`` (or ``[N, H, W, C]``), tokens ``[N, T, C]``, or a row
``[N, C]``. It is pooled over space or over all tokens, the class token included, at the moment the
layer returns it, so that nothing a later layer does in place is seen and no map is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from torch import Tensor, nn

from neroli.activations import Activations
from neroli.discovery import close
from neroli.errors import HeadNotFound, InvalidInput
from neroli.pooling import Axis, Pooling, pooled
from neroli.probes import Probe
from neroli.running import Watcher, run, watched
from neroli.validation import check_types

Side = Literal["input", "output"]
PREPOOL = ("prepool_max", "prepool_mean")
"""Names of the pre-pool map's spatial maximum and mean in ``Activations.extras``."""


@dataclass(frozen=True)
class Site:
    """A place in the network, written ``"layer3"``, ``"avgpool@input"`` or ``"norm@relu,last"``.

    Args:
        layer: path of the module.
        side: what it returns, or what it takes.
        rectified: with negative values set to zero (a ReLU that is no module).
        channels: where the channels of a map are; None finds out, if its height is its width.
    """

    layer: str
    side: Side = "output"
    rectified: bool = False
    channels: Axis | None = None

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that ``str()`` gives.

        Raises:
            InvalidInput: if it holds an unknown option.
        """
        layer, _, after = text.partition("@")
        options = [option for option in after.split(",") if option]
        unknown = [o for o in options if o not in ("input", "relu", "first", "last")]
        if unknown or not layer:
            raise InvalidInput(
                f"{text!r} is no layer: write its path, or path@options with options of input, "
                "relu, first and last (where its channels are)."
            )
        return cls(
            layer,
            "input" if "input" in options else "output",
            "relu" in options,
            "first" if "first" in options else "last" if "last" in options else None,
        )

    @classmethod
    def output(cls, text: str) -> Site:
        """The site of a layer's output as it is, which is all that probes can look at or change.

        Raises:
            InvalidInput: if it is another, or unknown.
        """
        site = cls.parse(text)
        if site.side != "output" or site.rectified:
            raise InvalidInput(f"{text!r}: of this layer only the output as it is can be taken.")
        return site

    def __str__(self) -> str:
        options = ["input"] * (self.side == "input") + ["relu"] * self.rectified
        options += [self.channels] if self.channels else []
        return self.layer + ("@" + ",".join(options) if options else "")

    def value(self, taken: Tensor | None, given: Tensor | None) -> Tensor | None:
        """The tensor at this place, of what the layer took and gave."""
        value = given if self.side == "output" else taken
        return value.relu() if value is not None and self.rectified else value


def check_named(layers: Sequence[str]) -> None:
    """Raise InvalidInput if no layer is named, or one is malformed."""
    if not layers:
        raise InvalidInput("layers is empty: name at least one, as in model.named_modules().")
    for layer in layers:
        Site.parse(layer)


@dataclass(frozen=True)
class Tap:
    """A layer whose pooled output goes beside the features, as ``Activations.taps[str(tap)]``.

    Args:
        layer: path of the module, or more exactly a ``Site``.
        pooling: how each channel is brought to one number an image, or to one for each power.

    Raises:
        InvalidInput: if the pooling is unknown or the layer malformed.
    """

    layer: str
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        check_types(self)
        Site.parse(self.layer)

    def __str__(self) -> str:
        return f"{self.layer}:{self.pooling}"


@dataclass(frozen=True)
class Tapped:
    """What a tap gave, ``[N, K]``: a quantity for statistics."""

    name: str

    def __call__(self, batch: Activations) -> Tensor:
        return batch.taps[self.name]


@dataclass(frozen=True)
class Kept:
    """What a store keeps beside features and logits, by name."""

    taps: tuple[str, ...] = ()
    prepool: bool = False
    probes: tuple[str, ...] = ()

    def holds(self, other: Kept) -> bool:
        """Whether it keeps all that another does."""
        more = set(self.taps) >= set(other.taps) and set(self.probes) >= set(other.probes)
        return more and self.prepool >= other.prepool


@dataclass(frozen=True)
class Requirements:
    """What detectors need beyond features and logits.

    Args:
        taps: pooled outputs of layers.
        prepool: spatial maximum and mean of the map that is pooled into the features, as
            ``Activations.extras["prepool_max"]`` and ``["prepool_mean"]``.
        probes: what is measured on the images, as ``Activations.extras`` of their ``names()``.
    """

    taps: tuple[Tap, ...] = ()
    prepool: bool = False
    probes: tuple[Probe, ...] = ()

    def __or__(self, other: Requirements) -> Requirements:
        """What both need."""
        taps = dict.fromkeys((*self.taps, *other.taps))
        probes = dict.fromkeys((*self.probes, *other.probes))
        return Requirements(tuple(taps), self.prepool or other.prepool, tuple(probes))

    @property
    def kept(self) -> Kept:
        """What a store of these keeps."""
        probes = tuple(map(str, self.probes))
        return Kept(tuple(map(str, self.taps)), self.prepool, probes)

    def sites(self) -> list[Site]:
        """The layers that are needed by name."""
        named = [Site.parse(tap.layer) for tap in self.taps]
        return named + [Site.parse(text) for probe in self.probes for text in probe.layers()]

    def lacking(self, batch: Activations) -> list[str]:
        """Names of what a batch lacks."""
        lacking = [str(tap) for tap in self.taps if str(tap) not in batch.taps]
        if self.prepool:
            lacking += [name for name in PREPOOL if name not in batch.extras]
        measured = [name for probe in self.probes for name in probe.names()]
        return lacking + [name for name in measured if name not in batch.extras]

    def check(self, batch: Activations) -> None:
        """Raise InvalidInput, naming the first thing that a batch lacks."""
        if lacking := self.lacking(batch):
            raise InvalidInput(
                f"The activations lack {lacking[0]!r}, which the detector requires: extract them "
                "with requires=detector.requires."
            )


NOTHING = Requirements()


def watchers_of(
    taps: Mapping[str, Tap], images: Tensor, into: dict[str, Tensor]
) -> Iterator[tuple[str, Watcher]]:
    """Watchers that put every tap's pooled values into a dict, under its name.

    Args:
        taps: by name.
        images: what the network is about to run on, ``[N, ...]``.
        into: the dict.
    """
    square = images.ndim == 4 and images.shape[2] == images.shape[3]
    for name, tap in taps.items():
        yield Site.parse(tap.layer).layer, _pooling_watcher(tap, name, square, into)


def _pooling_watcher(tap: Tap, name: str, square: bool, into: dict[str, Tensor]) -> Watcher:
    site = Site.parse(tap.layer)

    def note(taken: Tensor | None, given: Tensor | None) -> None:
        value = site.value(taken, given)
        if value is None or not value.is_floating_point() or value.ndim < 2:
            what = "no tensor" if value is None else f"{value.dtype} of shape {list(value.shape)}"
            raise InvalidInput(f"The layer {tap.layer!r} cannot be tapped: it yields {what}.")
        # a copy, since [N, C] is not pooled and may be changed in place
        into[name] = pooled(value, tap.pooling, site.channels, square).clone()

    return note


def find_prepool(model: nn.Module, images: Tensor, features: Tensor) -> Site:
    """Where the map stands whose spatial mean is the features: the last such place.

    Args:
        model: the classifier.
        images: a few images ``[N, ...]``.
        features: theirs, ``[N, D]``.

    Raises:
        HeadNotFound: if no module takes or returns such a map.
    """
    means: dict[Site, Tensor] = {}

    def watcher(path: str) -> Watcher:
        def note(taken: Tensor | None, given: Tensor | None) -> None:
            for site in _places(path):
                value = site.value(taken, given)
                if value is None or not value.is_floating_point():
                    continue
                if value.ndim < 3 or value.numel() <= features.numel():
                    continue  # no map, or one of a single pixel
                axis = 1 if site.channels == "first" else -1
                if value.shape[axis] == features.shape[1] and len(value) == len(features):
                    means.pop(site, None)
                    means[site] = pooled(value, "mean", site.channels)

        return note

    paths = [path for path, _ in model.named_modules() if path]
    with watched(model, [(path, watcher(path)) for path in paths]):
        run(model, images)
    for site, mean in reversed(means.items()):
        if close(mean.to(images.dtype), features.to(images.dtype)):  # as the network computes
            return site
    raise HeadNotFound(
        f"No map of this {type(model).__name__} is averaged over space into the features (it pools "
        "otherwise, or a norm stands between): name the layer, Classifier(model, "
        'prepool="path.to.layer").'
    )


def _places(path: str) -> list[Site]:
    """The places at a layer, the best last."""
    sides: tuple[Side, ...] = ("input", "output")
    axes: tuple[Axis, ...] = ("last", "first")
    return [Site(path, *place) for place in product(sides, (True, False), axes)]
