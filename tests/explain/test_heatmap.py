"""Heat maps: relevance of chosen neurons at the pixels, by rules where there are such."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

from neroli import Activations, Classifier
from neroli.errors import InvalidInput
from neroli.explain import Heatmap, of_neurons, of_prediction, propagate
from neroli.models import import_torchvision
from neroli.models.cifar import ResNet20
from networks import tiny_network, trained_colour_network, untrained_resnet20


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = draw(5, 3, 8, 8)


def plain_network() -> nn.Sequential:
    """Convolutions, pooling and linear layers without biases, for 8x8 images; 6 features."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 6, bias=False),
        nn.ReLU(),
        nn.Linear(6, 4),
    ).eval()


def same(left: Heatmap, right: Heatmap) -> None:
    assert (left.method, left.rules) == (right.method, right.rules)
    torch.testing.assert_close(left.channels, right.channels, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(left.started, right.started)


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    layer.weight.data = torch.tensor(rows)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


def test_two_layers_by_hand() -> None:
    network = nn.Sequential(
        nn.Flatten(),
        linear([1.0, 1.0], [2.0, -0.5]),  # of the pixels 1 and 2: 3 and 1
        nn.ReLU(),
        linear([1.0, 1.0], [1.0, -2.0]),  # 4 and 1
        nn.ReLU(),
        linear([1.0, 0.0], [0.0, 1.0]),
    )
    heatmap = propagate(
        Classifier(network, head="5"),
        torch.tensor([[[[1.0, 2.0]]]]),
        torch.tensor([[4.0, 2.0]]),
    )
    # hidden: 3/4 * 4 + 3/1 * 2 = 9 and 1/4 * 4 - 2/1 * 2 = -3
    # pixels: 1/3 * 9 + 2/1 * -3 = -3 and 2/3 * 9 - 1/1 * -3 = 9
    torch.testing.assert_close(heatmap.relevance, torch.tensor([[[-3.0, 9.0]]]))
    assert heatmap.started.tolist() == heatmap.magnitude.tolist() == [6]
    assert heatmap.conservation.item() < 1e-5
    assert (heatmap.method, heatmap.rules, heatmap.reason) == ("lrp", "composite", None)


def test_a_bias_absorbs_its_share() -> None:
    network = nn.Sequential(
        nn.Flatten(), linear([1.0, 1.0], bias=[-1.0]), nn.ReLU(), linear([1.0], [0.0])
    )
    heatmap = propagate(
        Classifier(network, head="3"), torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[8.0]])
    )
    # of weighted input 3 and bias -1, the input keeps 3 / (3 + 1) of 8
    torch.testing.assert_close(heatmap.relevance, torch.tensor([[[2.0, 4.0]]]))
    torch.testing.assert_close(heatmap.absorbed, torch.tensor([0.25]))


def test_where_nothing_speaks_for_an_output_what_speaks_against_it_shares_its_relevance() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, (1, 2)), nn.ReLU(), nn.Flatten(), linear([1.0], [0.0]))
    network[0].weight.data = torch.tensor([[[[-1.0, -3.0]]]])
    network[0].bias.data = torch.tensor([9.0])
    heatmap = propagate(
        Classifier(network, head="3"), torch.tensor([[[[2.0, 2.0]]]]), torch.tensor([[8.0]])
    )
    torch.testing.assert_close(heatmap.relevance, torch.tensor([[[2.0, 6.0]]]))


def test_folding_batch_norm_changes_nothing() -> None:
    network = untrained_resnet20().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(std=0.1)
    folded = copy.deepcopy(network)
    for parent in folded.modules():
        for number in ("1", "2"):
            if hasattr(parent, f"bn{number}"):
                conv, norm = getattr(parent, f"conv{number}"), getattr(parent, f"bn{number}")
                setattr(parent, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                setattr(parent, f"bn{number}", nn.Identity())
    images = draw(2, 3, 32, 32)
    start = draw(2, 64, seed=1).double()
    ours, theirs = (propagate(Classifier(n), images, start) for n in (folded, network))
    scale = float(theirs.channels.abs().max())
    assert float((ours.channels - theirs.channels).abs().max()) < 1e-3 * scale


def test_the_rules_are_those_of_zennit() -> None:
    import_torchvision()  # which zennit imports
    composites = pytest.importorskip("zennit.composites")
    network, start = plain_network(), draw(5, 6, seed=1)
    ours = propagate(Classifier(network), IMAGES, start)
    leaf = IMAGES.clone().requires_grad_()
    with composites.EpsilonPlus().context(network[:9]) as body:
        (theirs,) = torch.autograd.grad(body(leaf), leaf, start)
    assert ours.method == "lrp"
    assert float((ours.channels - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_relevance_is_conserved_without_biases() -> None:
    heatmap = propagate(Classifier(plain_network()), IMAGES.abs(), draw(5, 6, seed=1).abs())
    alive = heatmap.relevance.abs().sum((1, 2)) > 0
    assert alive.any()
    assert float(heatmap.conservation[alive].max()) < 1e-3


def test_the_sum_of_the_prediction_is_its_logit_without_bias() -> None:
    network = untrained_resnet20()
    classifier, images = Classifier(network), draw(2, 3, 32, 32)
    heatmap = of_prediction(classifier, images)
    batch = classifier(images)
    logits = batch.logits.max(1).values - classifier.head.bias[batch.predictions]
    torch.testing.assert_close(heatmap.started, logits)
    assert float(heatmap.conservation.max()) < 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_batches_change_nothing(batch_size: int) -> None:
    classifier = Classifier(trained_colour_network())
    together = of_prediction(classifier, IMAGES)
    same(of_prediction(classifier, IMAGES, batch_size=batch_size), together)
    alone = of_prediction(classifier, IMAGES[3:4])
    torch.testing.assert_close(alone.channels[0], together.channels[3], rtol=1e-4, atol=1e-6)


def test_a_start_may_be_computed_from_the_activations() -> None:
    classifier = Classifier(trained_colour_network())
    seen: list[int] = []

    def start(batch: Activations) -> Tensor:
        seen.append(len(batch))
        assert type(batch.features) is Tensor
        return classifier.head.weight[batch.predictions] * batch.features

    same(propagate(classifier, IMAGES, start, batch_size=2), of_prediction(classifier, IMAGES))
    assert seen == [2, 2, 1]


def test_neurons_add_up_to_the_prediction() -> None:
    classifier = Classifier(trained_colour_network())
    whole = of_prediction(classifier, IMAGES)
    parts = [of_neurons(classifier, IMAGES, range(*ends)) for ends in ((0, 3), (3, 16))]
    torch.testing.assert_close(
        parts[0].relevance + parts[1].relevance, whole.relevance, rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(parts[0].started + parts[1].started, whole.started)


def test_nothing_started_is_nothing_shown() -> None:
    heatmap = propagate(Classifier(tiny_network()), IMAGES, torch.zeros(5, 16))
    assert not heatmap.relevance.any()
    assert heatmap.conservation.tolist() == [0] * 5


def test_the_model_is_given_back_as_it_was() -> None:
    model = tiny_network().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    model[6].bias.grad = torch.ones(4)
    state = copy.deepcopy(model.state_dict())
    images = IMAGES.clone()
    of_prediction(Classifier(model), images)
    assert [module.training for module in model] == [True] * 3 + [False] + [True] * 3
    assert not any(module._forward_hooks for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert [p.grad is None for p in model.parameters()] == [True] * 5 + [False]
    assert torch.equal(model[6].bias.grad, torch.ones(4))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad


def test_frozen_models_and_outer_contexts_change_nothing() -> None:
    expected = of_prediction(Classifier(trained_colour_network()), IMAGES)
    frozen = trained_colour_network().requires_grad_(False)
    same(of_prediction(Classifier(frozen), IMAGES), expected)
    model = trained_colour_network()
    for outer in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with outer:
            same(of_prediction(Classifier(model), IMAGES.clone()), expected)


@pytest.mark.parametrize("make", [trained_colour_network, ResNet20])
def test_an_exported_program_has_the_heat_maps_of_its_network(
    make: Callable[[], nn.Module],
) -> None:
    model = make().eval()
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: Dim("batch")},))
    ours = of_prediction(Classifier(program), IMAGES)
    assert ours.method == "lrp"
    same(ours, of_prediction(Classifier(model), IMAGES))


def test_a_model_in_half_precision_is_explained_in_full() -> None:
    model = trained_colour_network().bfloat16()
    classifier = Classifier(model)
    heatmap = of_prediction(classifier, IMAGES)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert classifier.model is model
    assert heatmap.relevance.dtype == torch.float32
    widened = copy.deepcopy(model).float()
    same(heatmap, of_prediction(Classifier(widened), IMAGES))


def test_double_precision_stays() -> None:
    heatmap = of_prediction(Classifier(plain_network().double()), IMAGES)
    assert heatmap.relevance.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    heatmap = of_prediction(Classifier(trained_colour_network().cuda()), IMAGES)
    assert heatmap.method == "lrp" and heatmap.relevance.is_cuda
    cpu = of_prediction(Classifier(trained_colour_network()), IMAGES)
    torch.testing.assert_close(heatmap.relevance.cpu(), cpu.relevance, rtol=1e-2, atol=1e-3)
    heatmap.overlay(torch.zeros(5, 8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": torch.zeros(5, 7)}, r"start must have shape \[5, 16\].* got \[5, 7\]"),
        ({"start": torch.zeros(4, 16)}, r"start must have shape \[5, 16\].* got \[4, 16\]"),
        ({"start": lambda batch: batch.features[:1]}, r"got \[1, 16\]"),
        ({"start": torch.full((5, 16), torch.nan)}, "start holds NaN or infinity for image 0"),
        ({"start": torch.zeros(5, 16, dtype=torch.int64)}, "got torch.int64"),
        ({"start": [1.0]}, "got list"),
        (
            {"images": IMAGES[0]},
            r"images \[N, channels, H, W\], got shape \[3, 8, 8\].*images\[Non",
        ),
        ({"images": IMAGES * torch.inf}, "NaN or infinity"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rules": "best"}, "rules must be .* got 'best'"),
    ],
)
def test_what_cannot_be_used_is_said(arguments: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"images": IMAGES, "start": torch.zeros(5, 16)} | arguments
    with pytest.raises(InvalidInput, match=message):
        propagate(Classifier(tiny_network()), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("neurons", "message"),
    [([], "neurons is empty"), ([2, 16], "no neuron 16: they are 0 to 15"), ([-1], "no neuron -1")],
)
def test_neurons_must_be_some_of_the_features(neurons: list[int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        of_neurons(Classifier(tiny_network()), IMAGES, neurons)
