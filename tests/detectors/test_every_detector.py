"""What holds for every detector; a new one is tested here without being named."""

import pickle
from dataclasses import replace

import pytest
import torch

from batteries import EVERY, create, equipped
from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.detectors import KNN, Detector, Energy, register
from neroli.errors import ArtefactError, InvalidInput, NotFitted

NOISE_SIZE = {"ncdd": 0.5, "gram": 3.0}
"""NCDD goes by the size of the features more than by their pattern, see its docstring; Gram scores
what stays within the range of training zero."""

LIMITED = {"ensemble": {"members": [KNN(bank_size=100), "vim"]}}
"""Whose members keep a bank of training images, which is limited."""

SILENT = {"weiper_kld": 0.5}
"""WeiPer+KLD goes by how the features are distributed, so some more of them must be silent."""


@pytest.fixture
def training(name: str, head: LinearHead) -> Activations:
    return equipped(random_activations(head, 400), name)


@pytest.fixture
def new(name: str, head: LinearHead) -> Activations:
    return equipped(random_activations(head, 90, seed=7, shift=0.3), name)


@pytest.fixture
def fitted(name: str, training: Activations, head: LinearHead) -> Detector:
    return create(name).fit(training, head)


@EVERY
def test_scores_are_finite_in_the_features_dtype(fitted: Detector, new: Activations) -> None:
    double = fitted.score(new)
    single = fitted.score(
        equipped(Activations(new.features.float(), new.logits.float()), fitted.name)
    )
    assert double.shape == single.shape == (len(new),)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert torch.isfinite(double).all()
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@EVERY
def test_higher_is_more_ood(fitted: Detector, training: Activations, head: LinearHead) -> None:
    """Features without any class pattern, of the training images' size, score above these."""
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(200, head.num_features, generator=draw, dtype=torch.float64).clamp(min=0)
    noise *= torch.rand(noise.shape, generator=draw) >= SILENT.get(fitted.name, 0.0)
    outside = Activations.from_features(NOISE_SIZE.get(fitted.name, 1.0) * noise, head)
    outside = equipped(outside, fitted.name)
    assert fitted.score(outside).median() > fitted.score(training).median()


@EVERY
def test_batch_size_does_not_matter(fitted: Detector, new: Activations) -> None:
    whole = fitted.score(new)
    for size in (1, 13):
        parts = torch.cat([fitted.score(part) for part in new.batches(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


@EVERY
def test_order_does_not_matter(fitted: Detector, new: Activations) -> None:
    order = torch.randperm(len(new))
    expected = fitted.score(new)[order]
    torch.testing.assert_close(fitted.score(new.select(order)), expected, rtol=1e-10, atol=1e-10)


@EVERY
def test_scoring_does_not_change_the_batch_or_the_detector(
    fitted: Detector, new: Activations
) -> None:
    features, logits = new.features.clone(), new.logits.clone()
    first = fitted.score(new)
    assert torch.equal(new.features, features)
    assert torch.equal(new.logits, logits)
    assert torch.equal(fitted.score(new), first)


@EVERY
def test_refit_replaces(fitted: Detector, name: str, new: Activations, head: LinearHead) -> None:
    other_head = LinearHead(head.weight[:3].flip(1), head.bias[:3])
    other = equipped(random_activations(other_head, 300, seed=2), name)
    fitted.score(new)
    fit([fitted], other, other_head)
    fresh = create(name).fit(other, other_head)
    assert torch.equal(fitted.score(other), fresh.score(other))


@EVERY
def test_state_restores_the_scores_bit_for_bit(
    fitted: Detector, name: str, new: Activations
) -> None:
    restored = create(name, **fitted.hyperparameters()).load_state(fitted.state())
    assert torch.equal(restored.score(new), fitted.score(new))
    assert torch.equal(pickle.loads(pickle.dumps(fitted)).score(new), fitted.score(new))
    with pytest.raises(ArtefactError, match="missing .'head.bias'"):
        create(name).load_state({k: v for k, v in fitted.state().items() if k != "head.bias"})


@EVERY
def test_state_does_not_grow_with_the_training_images(
    fitted: Detector, name: str, training: Activations, head: LinearHead
) -> None:
    bank: dict[str, object] = LIMITED.get(name, {})
    if "bank_size" in fitted.hyperparameters():
        bank = {"bank_size": 100}
    few, many = (
        create(name, **bank).fit(data, head)
        for data in (training, Activations.concatenate([training, training]))
    )
    shapes = {key: value.shape for key, value in few.state().items()}
    assert {key: value.shape for key, value in many.state().items()} == shapes


@EVERY
def test_activations_of_another_model_or_with_nan_are_refused(
    fitted: Detector, new: Activations
) -> None:
    with pytest.raises(InvalidInput, match="another model"):
        fitted.score(replace(new, features=new.features[:, 1:]))
    features = new.features.clone()
    features[3, 5] = torch.inf
    with pytest.raises(InvalidInput, match="image-7-3"):
        fitted.score(replace(new, features=features))


@EVERY
def test_what_learns_must_be_fitted_first(name: str, new: Activations) -> None:
    detector = create(name)
    if detector._learned_fields() or detector.uses_head:
        with pytest.raises(NotFitted, match="fit"):
            detector.score(new)
    else:
        detector.score(new)
    with pytest.raises(NotFitted, match="no state"):
        detector.state()


@EVERY
def test_docstring_gives_the_source(name: str) -> None:
    doc = type(create(name)).__doc__ or ""
    assert "Source:" in doc
    assert all(key in doc for key in create(name).hyperparameters())


def test_create_suggests_the_nearest_name_and_lists_hyperparameters() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'nero'"):
        create("neroo")
    with pytest.raises(InvalidInput, match=r"'temp'.*it has: temperature"):
        create("energy", temp=2)


@EVERY
def test_hyperparameters_stay_as_they_were_fitted(fitted: Detector) -> None:
    for name, value in fitted.hyperparameters().items():
        with pytest.raises(InvalidInput, match=f"is fitted: create another with {name}="):
            setattr(fitted, name, value)


def test_a_score_for_every_image_is_asked_of_everyone(head: LinearHead) -> None:
    class Wrong(Energy):
        def compute(self, batch: Activations) -> torch.Tensor:
            return batch.features

    with pytest.raises(InvalidInput, match=r"of Wrong must give .* \[400\], got \[400, 24"):
        Wrong().score(random_activations(head, 400))


def test_a_name_is_not_taken_over_by_another_module() -> None:
    Impostor = type("KNN", (KNN,), {"__module__": "elsewhere", "__qualname__": "KNN"})  # noqa: N806
    with pytest.raises(InvalidInput, match="taken by neroli.detectors.knn.KNN"):
        register(Impostor)
    with pytest.raises(InvalidInput, match="did you mean 'nero'"):
        create("NERO")
