"""The largest images of every column, whatever the order, batches and shards."""

import numpy as np
import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.errors import InvalidInput
from neroli.explain.examples import LargestImages
from neroli.fitting import gather


def test_they_are_those_that_sorting_finds(training: Activations) -> None:
    (top,) = gather([LargestImages("features", 4)], training)
    assert training.ids is not None
    for column, values in enumerate(training.features.numpy().T):
        best = np.argsort(-values)[:4]
        np.testing.assert_array_equal(top.values[:, column], values[best])
        assert top.ids[:, column].tolist() == [training.ids[row] for row in best]


def test_shards_and_batches_do_not_matter(training: Activations) -> None:
    whole = LargestImages("features", 5)
    whole.update(training)
    parts = [LargestImages("features", 5) for _ in range(3)]
    for number, batch in enumerate(training.batches(37)):
        parts[number % 2].update(batch)  # the third stays empty
    parts[2].merge(parts[1])
    parts[0].merge(parts[2])
    expected, found = whole.finalize(), parts[0].finalize()
    assert torch.equal(found.values, expected.values)
    assert (found.ids == expected.ids).all()


def test_of_equal_values_the_first_ids_are_kept_whatever_the_order_and_the_batches(
    training: Activations,
) -> None:
    coarse = training.features.round()  # as half precision makes them, only more so
    names = [f"{(7 * row) % len(training):04d}" for row in range(len(training))]
    expected = [
        sorted(((-v, name) for v, name in zip(column, names, strict=True) if v > 0))[:6]
        for column in coarse.T.tolist()
    ]
    assert any(len({value for value, _ in kept}) < len(kept) for kept in expected)
    for seed, size in ((0, len(training)), (1, 64), (2, 5)):
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
        shuffled = Activations(
            coarse[order], training.logits[order], ids=[names[row] for row in order]
        )
        parts = [LargestImages("features", 6) for _ in range(2)]
        for number, batch in enumerate(shuffled.batches(size)):
            parts[number % 2].update(batch)
        parts[1].merge(parts[0])
        found = parts[1].finalize()
        assert [[i for i in ids if i] for ids in found.ids.T.tolist()] == [
            [name for _, name in kept] for kept in expected
        ]


def test_of_a_dead_neuron_there_are_none(head: LinearHead) -> None:
    few = random_activations(head, 3)
    few.features[:, 2] = 0
    (top,) = gather([LargestImages(_negated, 2)], few)
    assert not top.values.any() and (top.ids == "").all()
    (top,) = gather([LargestImages("features", 9)], few)
    assert top.ids.shape == (3, 24) and (top.ids[:, 2] == "").all()
    with pytest.raises(InvalidInput, match="size=0"):
        LargestImages("features", 0)


def _negated(batch: Activations) -> torch.Tensor:
    return -batch.features
