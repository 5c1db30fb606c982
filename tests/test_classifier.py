"""The classifier runs once, without being changed."""

import copy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from neroli import Classifier, Preprocessing
from neroli.errors import HeadNotFound, InvalidInput
from networks import colour_images, tiny_network

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def snapshot(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        (
            module.training,
            [len(getattr(module, hook)) for hook in hooks],
            [(p.requires_grad, p.grad) for p in module.parameters(recurse=False)],
        )
        for module in model.modules()
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_given_back_exactly_as_found(training: bool) -> None:
    model = tiny_network().train(training)
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before, weights = snapshot(model), copy.deepcopy(model.state_dict())
    Classifier(model)(IMAGES)
    assert snapshot(model) == before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_the_model_is_given_back_also_when_it_fails() -> None:
    model = tiny_network().train()
    classifier = Classifier(model)
    classifier(IMAGES)
    before = snapshot(model)
    with pytest.raises(InvalidInput, match=r"cannot take images of shape \[2, 5, 8, 8\]"):
        classifier(torch.zeros(2, 5, 8, 8))
    assert snapshot(model) == before


def test_runs_in_eval_mode_without_gradients() -> None:
    model = tiny_network().train()  # dropout and batch norm would change the logits
    activations = Classifier(model)(IMAGES)
    assert not activations.features.requires_grad
    torch.testing.assert_close(activations.logits, copy.deepcopy(model).eval()(IMAGES))


def test_the_network_runs_once_a_batch() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = tiny_network(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.network(x)

    model = Counting()
    classifier = Classifier(model)
    classifier.find_head(IMAGES)
    model.calls = 0
    for _ in range(3):
        classifier(IMAGES)
    assert model.calls == 3


def test_half_precision_models_give_float32_features() -> None:
    activations = Classifier(tiny_network().to(torch.bfloat16))(IMAGES)
    assert activations.features.dtype == activations.logits.dtype == torch.float32


def test_head_is_unknown_before_the_first_images_unless_named() -> None:
    with pytest.raises(HeadNotFound, match="first images"):
        _ = Classifier(tiny_network()).head
    assert Classifier(tiny_network(), head="6").head.num_features == 16


def test_labels_and_ids_travel_along() -> None:
    activations = Classifier(tiny_network())(IMAGES, torch.arange(5) % 4, list("abcde"))
    assert activations.labels is not None
    assert activations.labels.tolist() == [0, 1, 2, 3, 0]
    assert activations.ids == ("a", "b", "c", "d", "e")


def test_pictures_go_through_the_preprocessing() -> None:
    pictures, _ = colour_images(4)
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    by_hand = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    by_hand = (by_hand - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    model = tiny_network()
    expected = Classifier(model)(by_hand)
    actual = Classifier(model, preprocessing=preprocessing)(pictures)
    torch.testing.assert_close(actual.features, expected.features)
    with pytest.raises(InvalidInput, match="need preprocessing"):
        Classifier(model)(pictures)


def test_weights_hash_knows_any_changed_weight() -> None:
    one, same, other = tiny_network(seed=1), tiny_network(seed=1), tiny_network(seed=1)
    other[6].bias.data[2] += 1e-6
    assert Classifier(one).weights_hash() == Classifier(same).weights_hash()
    assert Classifier(one).weights_hash() != Classifier(other).weights_hash()


def test_class_names_must_be_as_many_as_classes() -> None:
    with pytest.raises(InvalidInput, match="2 class names for 4 classes"):
        Classifier(tiny_network(), class_names=["a", "b"])(IMAGES)


def test_threads_that_share_a_model_do_not_mix_images_or_modes() -> None:
    model = tiny_network().train()
    classifier = Classifier(model)
    images = torch.randn(200, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = classifier(images[:, 0]).logits
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda image: classifier(image).logits, images))
    finally:
        sys.setswitchinterval(interval)
    torch.testing.assert_close(torch.cat(found), expected)
    assert all(module.training for module in model.modules())


def test_a_model_that_works_in_place_does_not_change_the_images() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = tiny_network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.div_(2))

    images = IMAGES.clone()
    activations = Classifier(InPlace())(images)
    assert torch.equal(images, IMAGES)
    torch.testing.assert_close(activations.logits, tiny_network().eval()(IMAGES / 2))


def test_whatever_the_model_raises_is_one_sentence() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("mask")

    with pytest.raises(InvalidInput, match="cannot take images.*mask"):
        Classifier(Fails())(IMAGES)


class Caching(nn.Module):
    """Keeps what it computes in eval mode, and drops it when training begins (as LeViT does)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.cache = nn.Parameter(torch.ones(1)), None

    def train(self, mode: bool = True) -> "Caching":
        if mode:
            self.cache = None
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return x * self.weight
        self.cache = self.weight.clone() if self.cache is None else self.cache
        return x * self.cache


def test_what_a_model_caches_in_eval_mode_is_dropped_when_its_training_goes_on() -> None:
    model = nn.Sequential(Caching(), tiny_network()).train()
    model[1][1].eval()  # a frozen batch norm
    images = torch.randn(4, 3, 8, 8)
    Classifier(model)(images)
    assert model[0].training
    assert not model[1][1].training
    model[0].weight.data *= 3
    expected = model[1].eval()(3 * images)
    torch.testing.assert_close(model.eval()(images), expected)


class Brightness(nn.Module):
    """Its output is linear in its features on blank images only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = tiny_network()[:6], nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) * (1 + x.std())


def test_blank_first_images_do_not_make_a_head_of_what_is_none() -> None:
    with pytest.raises(HeadNotFound, match="yields other values"):
        Classifier(Brightness())(torch.zeros(3, 3, 8, 8))


def test_a_thread_that_runs_the_model_itself_is_not_mistaken_for_the_classifier() -> None:
    network = tiny_network().eval()
    slow = nn.Sequential(network, Slow())
    classifier = Classifier(slow)
    first, second = torch.randn(2, 4, 3, 8, 8)
    expected = classifier(first).features
    with ThreadPoolExecutor(2) as pool, torch.no_grad():
        for _ in range(5):
            mine = pool.submit(classifier, first)
            theirs = pool.submit(lambda: [slow(second) for _ in range(3)])
            torch.testing.assert_close(mine.result().features, expected)
            theirs.result()


class Slow(nn.Module):
    """Takes its time behind the head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return x
