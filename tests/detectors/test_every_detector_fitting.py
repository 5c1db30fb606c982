"""How every detector learns: the same from any order, batches, shards, precision and device."""

from dataclasses import replace

import pytest
import torch

from batteries import EVERY, InBatches, create, equipped, learned_in_shards
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import Detector
from neroli.fitting import InProgress, fit_held_out

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture
def training(name: str, head: LinearHead) -> Activations:
    return equipped(random_activations(head, 200), name)


@pytest.fixture
def new(name: str, head: LinearHead) -> Activations:
    return equipped(random_activations(head, 30, seed=7, shift=0.3), name)


@pytest.fixture
def fitted(name: str, training: Activations, head: LinearHead) -> Detector:
    return create(name).fit(training, head)


def assert_same_scores(one: Detector, other: Detector, new: Activations) -> None:
    """They score alike to the rounding of sums in another order, and of what follows from them."""
    torch.testing.assert_close(one.score(new), other.score(new), rtol=1e-7, atol=1e-8)


@EVERY
def test_the_order_of_the_training_images_does_not_matter(
    fitted: Detector, name: str, training: Activations, new: Activations, head: LinearHead
) -> None:
    shuffled = training.select(torch.randperm(len(training)))
    assert_same_scores(create(name).fit(shuffled, head), fitted, new)


@EVERY
@pytest.mark.parametrize("size", [1, 37])
def test_the_size_of_the_batches_does_not_matter(
    fitted: Detector,
    name: str,
    size: int,
    training: Activations,
    new: Activations,
    head: LinearHead,
) -> None:
    assert_same_scores(create(name).fit(InBatches(training, size), head), fitted, new)


@EVERY
def test_shards_learned_from_apart_and_merged_are_one_stream(
    fitted: Detector, name: str, training: Activations, new: Activations, head: LinearHead
) -> None:
    """Also where a shard has no image, and of what is learned from held-out images."""
    shards = [training[:0], training[:120], training[120:121], training[121:]]
    merged = learned_in_shards(InProgress.of_training(create(name), head), shards)
    assert_same_scores(merged, fitted, new)
    held_out = equipped(random_activations(head, 90, seed=3, shift=0.1), name)
    learner = InProgress.of_held_out(merged, head)
    merged = learned_in_shards(learner, [held_out[:50], held_out[50:], held_out[:0]])
    fit_held_out([fitted], held_out, head)
    assert_same_scores(merged, fitted, new)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(
    name: str, dtype: torch.dtype, training: Activations, new: Activations, head: LinearHead
) -> None:
    """And so does not overflow: the scores are those of the same numbers in float32."""
    half_head = LinearHead(head.weight.to(dtype), head.bias.to(dtype))

    def rounded(batch: Activations, scale: float, back: bool) -> Activations:
        features = (scale * batch.features).to(dtype)
        batch = Activations.from_features(
            features.float() if back else features, half_head, batch.labels, batch.ids
        )
        batch = equipped(batch, name)
        extras = {key: value.clamp(-6e4, 6e4).to(dtype) for key, value in batch.extras.items()}
        taps = {key: value.to(dtype) for key, value in batch.taps.items()}
        if back:
            extras = {key: value.float() for key, value in extras.items()}
            taps = {key: value.float() for key, value in taps.items()}
        return replace(batch, taps=taps, extras=extras)

    for scale in (1.0, 6e3):  # the logits of the second, and squares of it, exceed float16
        half = create(name).fit(rounded(training, scale, False), half_head)
        single = create(name).fit(rounded(training, scale, True), half_head)
        scores = half.score(rounded(new, scale, False))
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()
        assert torch.equal(scores, single.score(rounded(new, scale, True)))


@EVERY
@pytest.mark.parametrize("device", DEVICES)
def test_scores_are_on_the_device_of_the_features(
    fitted: Detector,
    name: str,
    device: str,
    training: Activations,
    new: Activations,
    head: LinearHead,
) -> None:
    there = LinearHead(head.weight.to(device), head.bias.to(device))
    detector = create(name).fit(training.to(device), there)
    batch = new.to(device)
    expected = fitted.score(new)
    for known in (detector, fitted):
        scores = known.score(batch)
        assert scores.device == batch.features.device
        torch.testing.assert_close(scores.cpu(), expected, rtol=1e-6, atol=1e-7)
    assert {tensor.device.type for tensor in detector.state().values()} == {"cpu"}


@EVERY
@pytest.mark.parametrize("enabled", [True, False])
def test_no_gradients_are_followed(
    name: str, enabled: bool, training: Activations, new: Activations, head: LinearHead
) -> None:
    """Of features, taps and weights that require them; and the global mode stays as it was."""
    head = LinearHead(head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_())

    def differentiable(batch: Activations) -> Activations:
        features = batch.features.clone().requires_grad_()
        made = Activations.from_features(features, head, batch.labels, batch.ids)
        taps = {key: value.clone().requires_grad_() for key, value in batch.taps.items()}
        extras = {key: value.clone().requires_grad_() for key, value in batch.extras.items()}
        return replace(made, taps=taps, extras=extras)

    with torch.set_grad_enabled(enabled):
        detector = create(name).fit(differentiable(training), head)
        scores = detector.score(differentiable(new))
        assert torch.is_grad_enabled() == enabled
    assert not scores.requires_grad
    assert not any(tensor.requires_grad for tensor in detector.state().values())
    assert torch.equal(scores, create(name).fit(training, head).score(new))
