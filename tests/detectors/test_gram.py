"""Gram: sums against whole Gram matrices, deviations against loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import random_activations
from neroli import Activations, Classifier, LinearHead
from neroli.detectors import Gram
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.pooling import GramSums, pooled
from networks import untrained_resnet20

DRAW = torch.Generator().manual_seed(4)


def naive_sums(values: np.ndarray, powers: int) -> np.ndarray:
    """Row sums of ``F^p (F^p)^T`` and their signed roots, of one map ``[C, places]``."""
    rows = []
    for p in range(1, powers + 1):
        total = (values**p @ (values**p).T).sum(axis=1)
        rows.append(np.sign(total) * np.abs(total) ** (1 / p))
    return np.concatenate(rows)


@pytest.mark.parametrize("powers", [1, 3, 10])
def test_sums_are_those_of_the_whole_matrices(powers: int) -> None:
    maps = torch.randn(5, 6, 4, 4, generator=DRAW, dtype=torch.float64)
    expected = [naive_sums(m.flatten(1).numpy(), powers) for m in maps]
    sums = pooled(maps, GramSums(powers))
    np.testing.assert_allclose(sums, np.stack(expected), rtol=1e-9)
    tokens = pooled(maps.flatten(2).transpose(1, 2), GramSums(powers))
    torch.testing.assert_close(tokens, sums)
    rows = pooled(maps[:, :, 0, 0], GramSums(powers))
    np.testing.assert_allclose(rows[0], naive_sums(maps[0, :, 0, :1].numpy(), powers))


def test_large_and_dead_maps_do_not_overflow() -> None:
    maps = 1e8 * torch.rand(3, 4, 2, 2, generator=DRAW)
    maps[1] = 0
    sums = pooled(maps, GramSums(10))
    assert torch.isfinite(sums).all() and (sums[1] == 0).all() and (sums[0] > 0).all()


def test_the_tap_gives_the_sums_of_the_layer() -> None:
    network, detector = untrained_resnet20(), Gram(("layer1", "layer3"), powers=2)
    images = torch.randn(4, 3, 32, 32, generator=DRAW)
    batch = Classifier(network)(images, requires=detector.requires)
    with torch.no_grad():
        map1 = network.layer1(torch.relu(network.bn1(network.conv1(images))))
    expected = np.stack([naive_sums(m.flatten(1).double().numpy(), 2) for m in map1])
    np.testing.assert_allclose(batch.taps["layer1:gram2"], expected, rtol=1e-4)
    assert batch.taps["layer3:gram2"].shape == (4, 128)


def with_sums(batch: Activations) -> Activations:
    return replace(batch, taps={"a:gram1": batch.features[:, :7], "b:gram1": -batch.features})


@pytest.mark.parametrize("labels", ["true", "predicted"])
@pytest.mark.parametrize("by_confidence", [False, True])
def test_equals_deviations_in_loops(head: LinearHead, labels: str, by_confidence: bool) -> None:
    training = with_sums(random_activations(head, 400))
    new = with_sums(random_activations(head, 60, seed=7, shift=0.3))
    detector = Gram(("a", "b"), 1, labels=labels, by_confidence=by_confidence)  # type: ignore[arg-type]
    detector.fit(training, head)
    kept_out = held_out(training, head)
    assert 20 < kept_out.sum() < 60
    classes = training.labels if labels == "true" else training.predictions
    assert classes is not None

    def deviation(batch: Activations, row: int, tap: str) -> float:
        total, c = 0.0, int(batch.predictions[row])
        known = training.taps[tap].numpy()[(classes == c).numpy() & ~kept_out]
        for value, column in zip(batch.taps[tap][row].tolist(), known.T, strict=True):
            low, high = column.min(), column.max()
            if value < low:
                total += (low - value) / max(abs(low), 1e-6)
            if value > high:
                total += (value - high) / max(abs(high), 1e-6)
        return total

    expected = np.zeros(len(new))
    for tap in training.taps:
        usual = np.mean([deviation(training, i, tap) for i in np.flatnonzero(kept_out)])
        expected += [deviation(new, i, tap) / usual for i in range(len(new))]
    if by_confidence:
        expected /= new.logits.softmax(dim=1).amax(dim=1).numpy()
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-9)


def held_out(training: Activations, head: LinearHead) -> np.ndarray:
    """Which images do not move the bounds: those that could leave them unnoticed."""
    found = np.zeros(len(training), dtype=bool)
    for row in range(len(training)):
        taps = {name: values.clone() for name, values in training.taps.items()}
        taps["a:gram1"][row] = 1e6
        bounds = Gram(("a", "b"), 1).fit(replace(training, taps=taps), head).high
        found[row] = bool((bounds < 1e6).all())
    return found


@pytest.mark.filterwarnings("ignore::neroli.errors.NeroliWarning")
def test_a_class_never_seen_has_the_bounds_of_all(head: LinearHead) -> None:
    training = with_sums(random_activations(head, 400))
    present = training.predictions != 2
    some = replace(
        training,
        features=training.features[present],
        logits=training.logits[present],
        labels=None,
        ids=None,
        taps={name: values[present] for name, values in training.taps.items()},
    )
    detector = Gram(("a", "b"), 1).fit(some, head)
    assert torch.equal(detector.low[2], detector.low[[0, 1, 3, 4]].amin(dim=0))
    assert torch.equal(detector.high[2], detector.high[[0, 1, 3, 4]].amax(dim=0))


def test_too_few_images_and_no_layers_are_refused(head: LinearHead) -> None:
    single = with_sums(random_activations(head, 1))
    with pytest.raises(NotEnoughImages, match="give more images"):
        Gram(("a", "b"), 1).fit(single, head)
    with pytest.raises(InvalidInput, match="layers is empty"):
        Gram(())
