"""What is usual: the evidence of the training images, learned in the passes of the detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.classifier import Classifier
from neroli.data.sources import ImageSource
from neroli.detectors import Detector
from neroli.errors import ArtefactError, NeroliWarning, NotFitted
from neroli.explain.examples import Examples, LargestImages, TopImages
from neroli.explain.thumbnails import thumbnails
from neroli.files import digest
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments
from neroli.relevance import ClassEvidence
from neroli.statistics import Reservoir, Statistic
from neroli.taps import NOTHING, Requirements

if TYPE_CHECKING:
    from neroli.explain.neurons import Neurons

ID_BYTES = 16
"""Length of an image's id, the hash of its content."""


@dataclass(eq=False)
class Reference:
    """The usual evidence of every class, and the images that show what a neuron stands for.

    It is fitted beside a detector: ``fit([detector, reference], ...)``.

    Args:
        detector: the one to explain, which says what counts as evidence.
        top: how many training images are kept of each neuron.
        by_activation: keep those with the largest activation too.
        examples: how many training images, chosen by a hash of their ids, are kept with their
            evidence to look for the nearest; 0 for none.
    """

    detector: Detector
    top: int = 9
    by_activation: bool = False
    examples: int = 0

    head: LinearHead | None = field(default=None, init=False, repr=False)
    shrunk: float | None = field(default=None, init=False, repr=False)
    state: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def fitted_head(self) -> LinearHead:
        """The head of the classifier it was fitted on.

        Raises:
            NotFitted: before ``fit``.
        """
        if self.head is None or not self.state:
            raise NotFitted("The reference is not fitted: fit([detector, reference], ...) first.")
        return self.head

    @property
    def mean(self) -> Tensor:
        """Mean evidence by predicted class, ``[C, D + 1]``; of all images for a class without."""
        return self.state["mean"]

    @property
    def spread(self) -> Tensor:
        """Its standard deviation, ``[C, D + 1]``."""
        return self.state["spread"]

    @property
    def count(self) -> Tensor:
        """How many training images were predicted as each class, ``[C]``."""
        return self.state["count"]

    @property
    def requires_to_fit(self) -> Requirements:
        return NOTHING

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        return ()

    def add_thumbnails(self, source: ImageSource, classifier: Classifier) -> None:
        """Keep small pictures of the examples, as the network was given them.

        Args:
            source: of the training images.
            classifier: that they were given to.
        """
        pictures, found = thumbnails(
            source, classifier.preprocessing, classifier.input_shape, self.example_ids
        )
        if not found.all():
            warnings.warn(
                f"{int((~found).sum())} of {len(found)} examples were not found when the training "
                "images were read again and are left out: give a folder, or a loader that does not "
                "augment, which makes other images every time.",
                NeroliWarning,
                stacklevel=3,
            )
        for name in ("examples", "example_ids"):
            self.state[name] = self.state[name][found]
        self.state["thumbnails"] = pictures[found]

    def load_state(self, state: dict[str, Tensor]) -> Self:
        """Take over what ``state`` held, beside a detector that was loaded too.

        Raises:
            ArtefactError: if it is not one of this detector's head.
        """
        head = self.detector.head
        assert head is not None, "the detector is loaded first"
        size = [head.num_classes, head.num_features + 1]
        if any(list(state[name].shape) != size for name in ("mean", "spread")) or (
            list(state["count"].shape) != size[:1]
        ):
            raise ArtefactError("The usual evidence is not of the guard's head: fit it again.")
        self.head, self.state = head, state
        return self

    @property
    def example_ids(self) -> Tensor:
        """Ids of the training images kept to look for the nearest, ``[E, 16]`` uint8."""
        return self.state.get("example_ids", torch.empty(0, ID_BYTES, dtype=torch.uint8))

    def examples_of(self, found: Neurons, top: Sequence[int]) -> Examples:
        """Training images beside one image.

        Args:
            found: the neurons of that image, N = 1.
            top: those to show examples of.

        Raises:
            NotFitted: before ``fit``.
        """
        _ = self.fitted_head
        evidence = torch.cat([found.evidence, found.bias_evidence[:, None]], dim=1)
        nearest = []
        if len(self.example_ids):
            # exact, and not by way of a product, which rounds small distances away
            distances = torch.cdist(
                evidence.double(),
                self.state["examples"].to(evidence.device, torch.float64),
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            values, rows = distances[0].topk(min(self.top, len(self.example_ids)), largest=False)
            names = _texts(self.example_ids[rows.cpu()])
            nearest = list(zip(names, values.tolist(), strict=True))
        pictures = self.state.get("thumbnails")
        return Examples(
            nearest=nearest,
            of_neurons={n: _texts(self.state["relevant"][:, n]) for n in top},
            kept_of_neurons={n: self._kept_with(n) for n in top if len(self.example_ids)},
            by_activation={n: _texts(self.state["active"][:, n]) for n in top}
            if "active" in self.state
            else {},
            thumbnails={}
            if pictures is None
            else dict(zip(_texts(self.example_ids), pictures.numpy(), strict=True)),
        )

    def _kept_with(self, neuron: int) -> list[str]:
        """Ids of the kept images in which a neuron's evidence is largest, and above zero."""
        values, rows = self.state["examples"][:, neuron].sort(descending=True, stable=True)
        return _texts(self.example_ids[rows[values > 0][: self.top].cpu()])

    def forget(self) -> None:
        """Drop everything learned."""
        self.head, self.state = None, {}

    def learn(self, head: LinearHead) -> Learning:
        """Gather the evidence of the training images."""
        evidence = self.detector.evidence(head)
        wanted: list[Statistic[Any]] = [
            ClassMoments(evidence, "predicted", allow_empty=True),
            LargestImages(_OwnEvidence(head), self.top),
        ]
        if self.by_activation:
            wanted.append(LargestImages("features", self.top))
        if self.examples:
            wanted += [Reservoir(evidence, self.examples), Reservoir(_IdBytes(), self.examples)]
        classes, relevant, *more = yield tuple(wanted)
        usual = classes.filled()
        self.state = {
            "count": classes.count.float(),
            "mean": usual.mean.float(),
            "spread": usual.variance.sqrt().float(),
            "relevant": _id_bytes(relevant),
        }
        if self.by_activation:
            self.state["active"] = _id_bytes(more.pop(0))
        if self.examples:
            kept, ids = more
            self.state |= {"examples": kept.float(), "example_ids": ids.to(torch.uint8)}

    def learn_held_out(self, head: LinearHead) -> Learning:
        """Nothing: what is usual is that of the training images."""
        return
        yield


def _texts(ids: Tensor) -> list[str]:
    """Ids ``[n, 16]`` as text, without those that stand for no image."""
    return [bytes(row).hex() for row in ids.numpy() if row.any()]


@dataclass(frozen=True)
class _OwnEvidence:
    """What neurons add to the logit of their image's own class, ``[N, D]``: a quantity."""

    head: LinearHead

    def __call__(self, batch: Activations) -> Tensor:
        return ClassEvidence(self.head, own=True)(batch)[:, :-1]


@dataclass(frozen=True)
class _IdBytes:
    """The ids, hashes in hexadecimal, as bytes ``[N, 16]``: a quantity."""

    def __call__(self, batch: Activations) -> Tensor:
        return _bytes(batch.ids or ())


def _id_bytes(top: TopImages) -> Tensor:
    """``[size, K, 16]`` uint8; zeros where there is no image."""
    return _bytes([i or "00" * ID_BYTES for i in top.ids.flatten()]).view(*top.ids.shape, ID_BYTES)


def _bytes(ids: Sequence[str]) -> Tensor:
    content = b"".join(_id(text) for text in ids)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, ID_BYTES)


def _id(text: str) -> bytes:
    """The 16 bytes that an id of stores states in hexadecimal; a hash of any other."""
    try:
        content = bytes.fromhex(text)
    except ValueError:
        content = b""
    return content if len(content) == ID_BYTES else digest(text.encode(errors="surrogateescape"))
