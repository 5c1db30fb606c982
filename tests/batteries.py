"""What the battery that every detector passes is made of: its inputs, and what is wanted of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from neroli import Activations, LinearHead, detectors
from neroli.detectors import Detector, class_of, names
from neroli.errors import NeroliError
from neroli.fitting import InProgress

EVERY = pytest.mark.parametrize("name", names())


def create(name: str, **hyperparameters: Any) -> Detector:
    """A detector by name, with its example where some hyper-parameters have no default."""
    return detectors.create(name, **{**class_of(name).example, **hyperparameters})


def equipped(batch: Activations, name: str) -> Activations:
    """The batch with what the detector requires of the network, made from its features."""
    requires, last = create(name).requires, batch.num_features - 1
    taps = {str(tap): batch.features[:, min(i, last) :] for i, tap in enumerate(requires.taps)}
    extras = dict.fromkeys(
        (name for probe in requires.probes for name in probe.names()), batch.logits
    )
    if name == "nac_ue":
        alphas = create(name).hyperparameters()["alpha"]
        extras = {e: 2 * batch.logits / a for e, a in zip(extras, alphas, strict=False)}
    if name in ("odin", "i_odin"):
        extras = dict.fromkeys(extras, (batch.logits / 1000).softmax(1).amax(1))
    if name == "views":
        extras = {f"{view}/features": batch.features.flip(0) for view in create(name).views}
    if requires.prepool:
        extras |= {"prepool_max": 3 * batch.features.square(), "prepool_mean": batch.features}
    return replace(batch, taps=taps, extras=extras)


def activations(
    name: str, features: Tensor, head: LinearHead, labels: Tensor | None = None
) -> Activations:
    """What the detector needs of images with these features."""
    return equipped(Activations.from_features(features, head, labels), name)


def normal_head(classes: int, features: int) -> LinearHead:
    """A head of normal weights, float64."""
    draw = torch.Generator().manual_seed(classes + features)
    return LinearHead(
        torch.randn(classes, features, generator=draw, dtype=torch.float64),
        torch.randn(classes, generator=draw, dtype=torch.float64),
    )


@dataclass(frozen=True)
class InBatches:
    """A source that yields batches of its own size, whatever size is asked for.

    Args:
        activations: all images.
        size: of the batches.
    """

    activations: Activations
    size: int

    def __len__(self) -> int:
        return len(self.activations)

    @property
    def num_features(self) -> int:
        return self.activations.num_features

    @property
    def num_classes(self) -> int:
        return self.activations.num_classes

    @property
    def has_labels(self) -> bool:
        return self.activations.has_labels

    def batches(self, batch_size: int = 0) -> Iterator[Activations]:
        """The images in order, ``size`` at a time."""
        yield from self.activations.batches(self.size)


def learned_in_shards(learner: InProgress, shards: Sequence[Activations]) -> Detector:
    """What a detector learns if every pass is split over shards that are pickled, then merged.

    At every pass the merged result is compared with that of one stream over all shards.
    """
    while learner.requests:
        results = []
        for statistic in learner.requests:
            stream, *parts = (copy.deepcopy(statistic) for _ in range(len(shards) + 1))
            for part, shard in zip(parts, shards, strict=True):
                for batch in shard.batches(37):
                    part.update(batch)
                    stream.update(batch)
            first, *others = pickle.loads(pickle.dumps(parts))
            for other in others:
                first.merge(other)
            results.append(first.finalize())
            assert_same(results[-1], stream.finalize())
        learner.advance(results)
    fitted = learner.fitted
    assert isinstance(fitted, Detector)
    return fitted


def assert_same(one: Any, other: Any) -> None:
    """Two results of a statistic are the same to rounding."""
    if is_dataclass(one):
        for part in fields(one):
            assert_same(getattr(one, part.name), getattr(other, part.name))
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    else:
        assert one == pytest.approx(other, rel=1e-12)


def check_finite_or_refused(
    name: str, training: Activations, head: LinearHead, *new: Tensor
) -> NeroliError | None:
    """Fit and score; every score is finite, in both precisions, or fitting says why not.

    Args:
        name: of the detector.
        training: training images.
        head: of the network.
        new: features ``[N, D]`` that are scored, beside some training images.

    Returns:
        the error that fitting raised, if it did.
    """
    detector = create(name)
    refused = None
    try:
        detector.fit(equipped(training, name), head)
    except NeroliError as error:
        refused = error
    if refused is not None:
        assert any(character.isdigit() for character in str(refused)), "it gives no figure"
        assert ":" in str(refused), "it gives no remedy"
        return refused
    for features in (training.features[:5], *new):
        for dtype in (torch.float64, torch.float32):
            scores = detector.score(activations(name, features.to(dtype), head))
            assert scores.isfinite().all()
            assert scores.dtype == dtype
    return None
