"""Epochs: a network's passes over its training images, and over the validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neroli.data.pictures import Pictures
from neroli.data.sources import Failure, ImageBatch
from neroli.errors import ModelError, NotEnoughImages
from neroli.models.statement import Epoch
from neroli.running import evaluation_mode, logits_of, run
from neroli.training.augmentation import AugmentedReader
from neroli.training.checkpoints import Standing
from neroli.training.recipe import Recipe


class Session:
    """The passes of a training over its two sets of pictures.

    Args:
        network: on the device it is to run on.
        training: pictures with class indices.
        validation: likewise.
        recipe: how.

    Raises:
        ModelError: if training images are to be augmented and torchvision is missing.

    Attributes:
        standing: what they have come to.
        unreadable: of either set, what the last pass over it could not read.
    """

    def __init__(
        self, network: nn.Module, training: Pictures, validation: Pictures, recipe: Recipe
    ) -> None:
        optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
        self.standing = Standing(network, optimiser)
        self.unreadable: dict[str, list[Failure]] = {}
        self._seen: dict[str, set[str]] = {}
        self._network = network
        self._training = training
        self._validation = validation
        self._recipe = recipe
        self._augmentation = recipe.augmentation
        self._device = next(network.parameters()).device

    def run(self, number: int, advance: Callable[[int], None]) -> Epoch:
        """Run the epoch of a number, and validate where the recipe says so or it is the last.

        Args:
            number: of the epoch, from 1.
            advance: called with the number of training images seen in all epochs so far.

        Raises:
            ModelError: if the loss or a logit is not finite.
            NotEnoughImages: if no image of either set can be read.
            InvalidInput: if the network cannot take the images.
        """
        loss = self._learn(number, advance)
        due = number % self._recipe.validate_every == 0 or number == self._recipe.epochs
        accuracy = self._accuracy(number) if due else None
        return Epoch(epoch=number, loss=loss, validation_accuracy=accuracy)

    def copies(self) -> int:
        """How many different images, by their content, are in both sets."""
        return len(self._seen["training"] & self._seen["validation"])

    def _learn(self, number: int, advance: Callable[[int], None]) -> float:
        """Go once through the training images; their mean loss on the way."""
        recipe, optimiser = self._recipe, self.standing.optimiser
        torch.manual_seed(seed_of(recipe.seed, number))
        self._network.train()
        total, count, before = 0.0, 0, (number - 1) * len(self._training)
        images = self._read("training", self._shuffled(number))
        for batch, labels in _regrouped(images, recipe.batch_size):
            optimiser.zero_grad()
            logits = logits_of(run(self._network, batch.to(self._device)))
            loss = F.cross_entropy(logits, labels.to(self._device))
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(number, f"the loss is {value}")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total, count = total + value * len(labels), count + len(labels)
            advance(before + count)
        if not count:
            raise NotEnoughImages(f"None of the training images can be read in epoch {number}.")
        return total / count

    def _shuffled(self, number: int) -> Pictures:
        """The training pictures as one epoch sees them: in its order, and augmented."""
        recipe, training = self._recipe, self._training
        order = np.random.default_rng((recipe.seed, number)).permutation(len(training)).tolist()
        pictures = training.subset(order)
        if not self._augmentation:
            return pictures
        reader = AugmentedReader(
            training, order, recipe.preprocessing, self._augmentation, recipe.seed, number
        )
        return Pictures(reader, pictures.names, pictures.labels, workers=training.workers)

    def _accuracy(self, number: int) -> float:
        """The share of the readable validation images that the network gets right."""
        right, count = 0, 0
        with evaluation_mode(self._network):
            for batch in self._read("validation", self._validation):
                assert batch.labels is not None
                logits = logits_of(run(self._network, batch.images.to(self._device))).cpu()
                if not torch.isfinite(logits).all():
                    raise self._diverged(number, "logits of validation images are not finite")
                right += int((logits.argmax(dim=1) == batch.labels).sum())
                count += len(batch.labels)
        if not count:
            raise NotEnoughImages("None of the validation images can be read.")
        return right / count

    def _read(self, side: str, pictures: Pictures) -> Iterator[ImageBatch]:
        """The batches that hold an image; what cannot be read is noted."""
        recipe = self._recipe
        self.unreadable[side], self._seen[side] = [], set()
        for batch in pictures.batches(
            recipe.preprocessing, recipe.batch_size, shape=recipe.input_shape
        ):
            self.unreadable[side] += batch.failures
            self._seen[side].update(batch.ids)
            if len(batch.images):
                yield batch

    def _diverged(self, number: int, what: str) -> ModelError:
        return ModelError(
            f"Training diverged in epoch {number}: {what}. Choose a learning rate below "
            f"{self._recipe.learning_rate:g}, or other weights to begin with."
        )


def _regrouped(batches: Iterable[ImageBatch], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels in batches of ``size`` readable images, the last never of a single one.

    Batch norm cannot learn from one image; it joins the batch before.
    """
    images, labels = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for batch in batches:
        assert batch.labels is not None
        images = torch.cat([images, batch.images]) if len(images) else batch.images
        labels = torch.cat([labels, batch.labels])
        while len(images) > size + 1:
            yield images[:size], labels[:size]
            images, labels = images[size:], labels[size:]
    if len(images):
        yield images, labels


def seed_of(seed: int, epoch: int) -> int:
    """For the network's own draws in one epoch, such as dropout's; epoch 0 makes the network."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
