"""How unusual the relevance at an earlier layer is, on the images of a suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neroli import ActivationStore
from neroli.benchmark.images import benchmark_images
from neroli.benchmark.model import classifier_of
from neroli.benchmark.stores import OOD, extract_all
from neroli.benchmark.suite import read_suite
from neroli.probes import Network
from neroli.taps import Requirements

BATCH = 1024


@dataclass(frozen=True)
class LayerRelevance:
    """Relevance of a layer's channels to the logit of the predicted class, ``[N, K]``.

    Activation times gradient, summed over space: what layer-wise relevance propagation gives a
    network of rectified units, but for its biases.
    """

    path: str

    def names(self) -> tuple[str, ...]:
        return (f"{self.path}:relevance",)

    def layers(self) -> tuple[str, ...]:
        return (self.path,)

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        found = network.layer_gradients(images, [self.path], lambda z: z.amax(dim=1).sum())
        (values, gradient), (name,) = found[0], self.names()
        return {name: (values * gradient).flatten(2).sum(dim=2)}


def layer_deviations(
    file: Path, layer: str, data: Path, out: Path
) -> dict[str, NDArray[np.float64]]:
    """``RelevanceDeviation`` at a layer, by set: the share of relevance that is not as usual.

    Args:
        file: of the suite.
        layer: its path.
        data: as of ``neroli bench``.
        out: where ``neroli bench`` has left a trained network, and where activations are kept.
    """
    suite = read_suite(file)
    images = benchmark_images(suite, data)
    sets = {"train": images.train, "test": images.test}
    sets |= {OOD + each.name: each.images for each in images.ood}
    probe = LayerRelevance(layer)
    stores = extract_all(
        classifier_of(suite, images, data, out),
        sets,
        Requirements(probes=(probe,)),
        out / "relevance",
        batch_size=64,
    ).of
    found = {kind: _relevance(store, *probe.names()) for kind, store in stores.items()}
    relevance, predicted = found["train"]
    usual = np.tile(relevance.mean(axis=0), (stores["train"].num_classes, 1))
    for label in np.unique(predicted):
        usual[label] = relevance[predicted == label].mean(axis=0)
    return {
        kind: np.abs(values - usual[classes]).sum(axis=1) / np.abs(values).sum(axis=1)
        for kind, (values, classes) in found.items()
    }


def _relevance(store: ActivationStore, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Relevance ``[N, K]`` and predicted classes ``[N]``."""
    batches = list(store.batches(BATCH))
    relevance = np.concatenate([batch.extras[name].double().numpy() for batch in batches])
    return relevance, np.concatenate([batch.predictions.numpy() for batch in batches])
