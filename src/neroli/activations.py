"""What a classifier computed for a batch of images: features, logits, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from neroli.errors import InvalidInput
from neroli.head import LinearHead

BATCH_SIZE = 1024
"""Rows of stored activations handled at a time, when fitting and scoring."""

_HALF = (torch.float16, torch.bfloat16)

Quantity = str | Callable[["Activations"], Tensor]
"""What a statistic is of: ``"features"``, ``"logits"``, or a picklable function of a batch."""


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Features and logits of N images, with labels and ids where they are known.

    Args:
        features: ``[N, D]``, the input of the linear head; floating point, never downcast, half
            precision becomes float32.
        logits: ``[N, C]``, in the features' dtype.
        labels: ``[N]`` int64 true classes in 0..C-1.
        ids: N strings that name the images.
        taps: pooled outputs of other layers, each with N rows; half precision likewise.
        extras: what else a detector required, each with N rows; half precision likewise.

    Raises:
        InvalidInput: if shapes, dtypes or label values do not fit together.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None = None
    ids: Sequence[str] | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("features", "logits"):
            value = torch.as_tensor(getattr(self, name)).detach()
            if value.ndim != 2 or not value.is_floating_point():
                raise InvalidInput(
                    f"{name} must be a floating-point tensor of two dimensions, "
                    f"got {value.dtype} of shape {list(value.shape)}."
                )
            if value.dtype in _HALF:
                value = value.float()
            object.__setattr__(self, name, value)
        for name in ("taps", "extras"):
            others = getattr(self, name)
            if any(value.dtype in _HALF for value in others.values()):
                others = {n: v.float() if v.dtype in _HALF else v for n, v in others.items()}
                object.__setattr__(self, name, others)
        if self.features.dtype != self.logits.dtype:
            raise InvalidInput(
                f"features are {self.features.dtype} and logits {self.logits.dtype}: give both in "
                "one precision."
            )
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(self.labels))
        if self.ids is not None:
            object.__setattr__(self, "ids", tuple(str(i) for i in self.ids))
        rows: dict[str, Any] = {"logits": self.logits, "labels": self.labels, "ids": self.ids}
        rows |= {**self.taps, **self.extras}
        for name, value in rows.items():
            if value is not None and len(value) != len(self.features):
                raise InvalidInput(
                    f"{name} has {len(value)} rows where features has {len(self.features)}."
                )

    @classmethod
    def from_features(
        cls,
        features: Tensor | np.ndarray[Any, Any],
        head: LinearHead,
        labels: Tensor | np.ndarray[Any, Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Activations:
        """Activations of features ``[N, D]`` known already; the head adds the logits.

        Raises:
            InvalidInput: if the features are not ``[N, D]`` with the head's D, or as above.
        """
        features = torch.as_tensor(features)
        if features.dtype in _HALF:
            features = features.float()  # before the head, whose logits might overflow
        if (
            features.ndim != 2
            or not features.is_floating_point()
            or features.shape[1] != head.num_features
        ):
            raise InvalidInput(
                f"features must be a floating-point tensor [N, {head.num_features}] for this head, "
                f"got {features.dtype} of shape {list(features.shape)}."
            )
        labels = None if labels is None else torch.as_tensor(labels)
        return cls(features, head(features), labels, ids)

    def _checked_labels(self, labels: Tensor) -> Tensor:
        labels = torch.as_tensor(labels)
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise InvalidInput(
                "labels must be a tensor [N] of integer class indices, "
                f"got {labels.dtype} of shape {list(labels.shape)}."
            )
        labels = labels.to(torch.int64)
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            raise InvalidInput(
                f"Label {int(outside[0])} is not a class of this model: labels must lie in "
                f"0..{self.num_classes - 1}."
            )
        return labels

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"Activations({len(self)} images, {self.num_features} features, "
            f"{self.num_classes} classes)"
        )

    @property
    def num_features(self) -> int:
        return self.features.shape[1]

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @property
    def has_labels(self) -> bool:
        return self.labels is not None

    @cached_property
    def predictions(self) -> Tensor:
        """Predicted classes, ``[N]`` int64."""
        return self.logits.argmax(dim=1)

    @cached_property
    def _quantities(self) -> dict[Quantity, Tensor]:
        return {}

    def quantity(self, of: Quantity) -> Tensor:
        """A quantity of every image in float64, ``[N]`` or ``[N, K]``, computed once a batch."""
        if of not in self._quantities:
            value = getattr(self, of) if isinstance(of, str) else of(self)
            self._quantities[of] = value.to(torch.float64)
        return self._quantities[of]

    def as_given(self, of: Quantity) -> Tensor:
        """The same, but features and logits in their own precision, for what needs no other."""
        value: Tensor = getattr(self, of) if isinstance(of, str) else self.quantity(of)
        return value

    @cached_property
    def _is_finite(self) -> bool:
        return all(all_finite(values) for values in self._values())

    def _values(self) -> list[Tensor]:
        return [self.features, self.logits, *self.taps.values(), *self.extras.values()]

    def check_finite(self) -> None:
        """Raise InvalidInput, naming the first image whose features or logits are not finite."""
        if self._is_finite:
            return
        finite = [torch.isfinite(v).reshape(len(v), -1).all(1) for v in self._values()]
        row = int((~torch.stack(finite).all(0)).nonzero()[0])
        name = f"row {row}" if self.ids is None else f"image {self.ids[row]!r}"
        raise InvalidInput(
            f"The features, logits or taps of {name} hold NaN or infinity; look at that image's "
            "values and at the model's weights, or leave the image out."
        )

    def __getitem__(self, rows: slice) -> Activations:
        """The activations of a slice of the images, sharing memory."""
        return replace(
            self,
            features=self.features[rows],
            logits=self.logits[rows],
            labels=None if self.labels is None else self.labels[rows],
            ids=None if self.ids is None else self.ids[rows],
            taps={name: value[rows] for name, value in self.taps.items()},
            extras={name: value[rows] for name, value in self.extras.items()},
        )

    def select(self, rows: Tensor) -> Activations:
        """The activations of some images: a bool mask ``[N]`` or indices ``[M]``."""
        rows = rows.to(self.features.device)
        indices = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return replace(
            self,
            features=self.features[rows],
            logits=self.logits[rows],
            labels=None if self.labels is None else self.labels[rows],
            ids=None if self.ids is None else [self.ids[i] for i in indices.tolist()],
            taps={name: value[rows] for name, value in self.taps.items()},
            extras={name: value[rows] for name, value in self.extras.items()},
        )

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """The same images in order, ``batch_size`` at a time."""
        if batch_size < 1:
            raise InvalidInput(f"batch_size must be at least 1, got {batch_size}.")
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def to(self, device: torch.device | str) -> Activations:
        """The same activations on another device."""
        return replace(
            self,
            features=self.features.to(device),
            logits=self.logits.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            taps={name: value.to(device) for name, value in self.taps.items()},
            extras={name: value.to(device) for name, value in self.extras.items()},
        )

    @staticmethod
    def concatenate(parts: Sequence[Activations]) -> Activations:
        """One batch of several, in order; labels and ids are kept where every part has them."""
        first = parts[0]
        ids = [part.ids for part in parts]
        labels = [part.labels for part in parts]
        return Activations(
            torch.cat([p.features for p in parts]),
            torch.cat([p.logits for p in parts]),
            None
            if any(v is None for v in labels)
            else torch.cat([v for v in labels if v is not None]),
            None if any(v is None for v in ids) else [i for v in ids if v is not None for i in v],
            {name: torch.cat([p.taps[name] for p in parts]) for name in first.taps},
            {name: torch.cat([p.extras[name] for p in parts]) for name in first.extras},
        )


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite.

    A sum that is finite has only finite terms, and is far faster than asking of each.
    """
    return isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


class ActivationSource(Protocol):
    """Anything detectors can be fitted on: it yields the same batches every time it is asked."""

    def __len__(self) -> int: ...

    @property
    def num_features(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def has_labels(self) -> bool: ...

    def batches(self, batch_size: int = ...) -> Iterator[Activations]: ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Some images of a source, as a source.

    Args:
        source: all of them.
        mask: which, bool ``[N]``.
    """

    source: ActivationSource
    mask: Tensor

    def __len__(self) -> int:
        return int(self.mask.sum())

    @property
    def num_features(self) -> int:
        return self.source.num_features

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    @property
    def has_labels(self) -> bool:
        return self.source.has_labels

    def batches(self, batch_size: int = BATCH_SIZE) -> Iterator[Activations]:
        """The images in order, at most ``batch_size`` at a time."""
        position = 0
        for batch in self.source.batches(batch_size):
            rows = self.mask[position : position + len(batch)]
            position += len(batch)
            if rows.any():
                yield batch.select(rows)
