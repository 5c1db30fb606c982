"""KNN and NNGuide against full tables of distances; the search of the bank, chunk by chunk."""

import numpy as np
import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import KNN, NNGuide, bank
from neroli.errors import InvalidInput, NotEnoughImages


def unit(rows: torch.Tensor) -> np.ndarray:
    array = rows.numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 400])
def test_knn_equals_sorted_distances(
    training: Activations, new: Activations, head: LinearHead, k: int
) -> None:
    rows = unit(training.features)
    expected = [np.sort(((rows - row) ** 2).sum(1))[k - 1] for row in unit(new.features)]
    np.testing.assert_allclose(KNN(k).fit(training, head).score(new), expected, rtol=1e-12)


def test_knn_of_an_image_of_the_bank_is_zero_in_float32(
    training: Activations, head: LinearHead
) -> None:
    single = Activations(training.features.float(), training.logits.float(), training.labels)
    score = KNN(k=1).fit(single, head).score(single)
    assert float(score.abs().max()) < 1e-12


def test_knn_does_not_depend_on_the_size_of_features(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    knn = KNN().fit(training, head)
    larger = Activations(1e3 * new.features, new.logits)
    torch.testing.assert_close(knn.score(larger), knn.score(new))


@pytest.mark.parametrize("normalise", [False, True])
def test_nnguide_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead, normalise: bool
) -> None:
    guide = NNGuide(k=9, normalise=normalise).fit(training, head)
    view = unit if normalise else torch.Tensor.numpy
    confident = view(training.features) * np.log(np.exp(training.logits.numpy()).sum(1))[:, None]
    expected = []
    for features, logits in zip(view(new.features), new.logits.numpy(), strict=True):
        similar = np.sort(confident @ features)[-9:].mean()
        expected.append(-np.log(np.exp(logits).sum()) * similar)
    np.testing.assert_allclose(guide.score(new), expected, rtol=1e-12)


def test_nnguide_keeps_one_percent_but_no_less_than_a_thousand() -> None:
    head = LinearHead(torch.eye(2))
    for count, kept in ((900, 900), (50_000, 1_000), (120_000, 1_200)):
        features = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
        data = Activations.from_features(features, head)
        assert len(NNGuide().fit(data, head).bank) == kept
    assert len(NNGuide(bank_size=70).fit(data, head).bank) == 70


def test_the_bank_is_a_sample_by_seed_that_does_not_depend_on_order(
    training: Activations, head: LinearHead
) -> None:
    backwards = Activations.concatenate([training[200:], training[:200]])
    one, other = (KNN(k=5, bank_size=60).fit(data, head).bank for data in (training, backwards))
    assert torch.equal(one, other) and len(one) == 60
    assert not torch.equal(one, KNN(k=5, bank_size=60, seed=1).fit(training, head).bank)


def test_search_in_chunks_is_the_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, rows = torch.randn(20, 6, generator=draw), torch.randn(333, 6, generator=draw)
    offset = torch.randn(333, generator=draw)
    at_once = (queries @ rows.T + offset).topk(4, dim=1)
    for cells in (1, 20 * 7, 20 * 100, 2**22):
        monkeypatch.setattr(bank, "CELLS", cells)
        values, index = bank.greatest(queries, rows, 4, offset)
        torch.testing.assert_close(values, at_once.values)
        assert torch.equal(index, at_once.indices)


def test_too_small_a_bank_says_what_to_do(head: LinearHead) -> None:
    few = random_activations(head, 30)
    with pytest.raises(NotEnoughImages, match="50 neighbours among only 30.*at most 30"):
        KNN().fit(few, head)
    with pytest.raises(NotEnoughImages, match="NNGuide.*10 neighbours among only 8"):
        NNGuide(bank_size=8).fit(few, head)
    with pytest.raises(InvalidInput, match="bank_size"):
        KNN(bank_size=0)
