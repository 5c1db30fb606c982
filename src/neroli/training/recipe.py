"""How a classifier is trained; by default as in NERO's experiments."""

from __future__ import annotations

import math
from dataclasses import dataclass

from neroli.data.preprocessing import MAX_SIDE, Preprocessing
from neroli.errors import InvalidInput
from neroli.training.augmentation import MAX_JITTER, Augmentation
from neroli.validation import check_types


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    Args:
        epochs: passes over the training images.
        validate_every: epochs between measurements of the validation accuracy; the last epoch is
            always measured.
        batch_size: images a step, at least 2.
        learning_rate: of Adam, at most 1.
        size: in pixels, to which images are resized whatever their proportions: (height, width), or
            an integer for both.
        mean: per channel, of values in 0..1; one channel for grey networks, three for colour.
        std: likewise.
        flip, jitter, invert, equalise: as of ``Augmentation``; 0 switches one off.
        seed: of the new layers, the order of the images, the augmentation and dropout.

    Raises:
        InvalidInput: naming a value that is out of range.

    Source: NERO (Chhetri et al. 2025), experimental setup.
    """

    epochs: int = 100
    validate_every: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-4
    size: int | tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    flip: float = 0.5
    jitter: float = 0.25
    invert: float = 0.3
    equalise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        for name, lowest, highest in _RANGES:
            value = getattr(self, name)
            if not all(lowest <= v <= highest for v in (value if name == "size" else (value,))):
                bounds = f"{lowest} or more" if highest == math.inf else f"{lowest} to {highest}"
                raise InvalidInput(f"{name} must be {bounds}, got {value!r}.")
        if not 0 < self.learning_rate <= 1:
            raise InvalidInput(
                f"learning_rate must be above 0 and at most 1, got {self.learning_rate!r}."
            )
        _ = self.preprocessing  # which checks mean and std

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to every image, in training before it is augmented."""
        return Preprocessing(self.mean, self.std, resize=self.size)

    @property
    def augmentation(self) -> Augmentation:
        """What is done to training images.

        Raises:
            ModelError: if there is any and torchvision is missing.
        """
        return Augmentation(self.flip, self.jitter, self.invert, self.equalise)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of an image as the network takes it: channels, height, width."""
        assert isinstance(self.size, tuple)
        return len(self.mean), *self.size


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, math.inf),
    ("validate_every", 1, math.inf),
    ("batch_size", 2, math.inf),
    ("size", 1, MAX_SIDE),
    ("flip", 0, 1),
    ("jitter", 0, MAX_JITTER),
    ("invert", 0, 1),
    ("equalise", 0, 1),
    ("seed", 0, 2**32 - 1),
)
