"""Detectors that need more of the network: against naive forms, on a real network's layers."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neroli import ActivationStore, Classifier, Guard, Preprocessing, extract
from neroli.detectors import (
    IODIN,
    NAP,
    ODIN,
    Mahalanobis,
    MultiLayerMahalanobis,
    RankFeat,
    create,
)
from neroli.detectors.rank_feat import without_first_rank
from neroli.errors import InvalidInput
from neroli.models.cifar import ResNet20
from networks import untrained_resnet20

DRAW = torch.Generator().manual_seed(5)
IMAGES = torch.randn(6, 3, 32, 32, generator=DRAW)
STD = (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return untrained_resnet20()


@pytest.fixture
def classifier(model: nn.Module) -> Classifier:
    return Classifier(model, preprocessing=Preprocessing((0.5,) * 3, STD))


def naive_odin(model: nn.Module, image: Tensor, temperature: float, step: float, single: bool):  # type: ignore[no-untyped-def]
    x = image[None].clone().requires_grad_()
    z = model(x) / temperature
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, z.argmax(1)), x)
    if single:
        place = gradient.abs().flatten().argmax()
        kept = torch.zeros_like(gradient).flatten()
        kept[place] = gradient.flatten()[place]
        gradient = kept.view_as(gradient)
    moved = image - step * gradient[0].sign() / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        return -(model(moved[None]).double() / temperature).softmax(1).max()


@pytest.mark.parametrize("kind", [ODIN, IODIN])
@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_odin_steps_each_image_by_itself(
    classifier: Classifier, model: nn.Module, kind: type[ODIN], temperature: float
) -> None:
    detector = kind(temperature=temperature, epsilon=0.01)
    scores = detector.score(classifier(IMAGES, requires=detector.requires))
    expected = [naive_odin(model, x, temperature, 0.01, kind is IODIN) for x in IMAGES]
    torch.testing.assert_close(scores.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_without_a_step_odin_is_the_confidence_at_its_temperature(classifier: Classifier) -> None:
    detector = ODIN(temperature=5.0, epsilon=0.0)
    batch = classifier(IMAGES, requires=detector.requires)
    expected = -(batch.logits / 5).softmax(1).amax(1)
    torch.testing.assert_close(detector.score(batch), expected)


def test_the_step_raises_the_confidence(classifier: Classifier) -> None:
    scores = {}
    for epsilon in (0.0, 0.001):
        detector = ODIN(temperature=1.0, epsilon=epsilon)
        scores[epsilon] = detector.score(classifier(IMAGES, requires=detector.requires))
    assert (scores[0.001] < scores[0.0]).all()


def test_the_network_is_left_without_gradients_and_hooks(model: nn.Module) -> None:
    training = ResNet20().train()
    for detector in (ODIN(), RankFeat(layers=("layer3", "layer2"))):
        Classifier(training)(IMAGES, requires=detector.requires)
    assert all(parameter.grad is None for parameter in training.parameters())
    assert not any(module._forward_hooks for module in training.modules())
    assert training.layer1.training


def test_a_network_that_begins_in_place_can_be_stepped(model: nn.Module) -> None:
    detector = ODIN(epsilon=0.01)
    in_place = nn.Sequential(nn.ReLU(inplace=True), model)
    before = IMAGES.clone()
    Classifier(in_place)(IMAGES, requires=detector.requires)
    assert torch.equal(IMAGES, before)


def test_nap_is_the_ratio_of_maximum_to_mean_before_pooling(
    classifier: Classifier, model: nn.Module
) -> None:
    maps = []
    handle = model.layer3.register_forward_hook(lambda m, i, output: maps.append(output))
    with torch.no_grad():
        logits = model(IMAGES)
    handle.remove()
    ratio = (maps[0].amax((2, 3)) / (maps[0].mean((2, 3)) + 1)).square().mean(1)
    batch = classifier(IMAGES, requires=NAP().requires)
    torch.testing.assert_close(NAP().score(batch), -ratio)
    energy = logits.logsumexp(1).clamp(min=1e-12)
    expected = -(energy**0.6) * ratio**0.4
    torch.testing.assert_close(NAP(energy_weight=0.6).score(batch), expected)


@pytest.mark.parametrize("shape", [(2, 8, 3, 4), (2, 5, 4, 4), (2, 6, 1, 1)])
def test_the_first_rank_is_that_of_the_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    maps = torch.rand(shape, generator=DRAW, dtype=torch.float64)
    u, s, v = torch.linalg.svd(maps.flatten(2), full_matrices=False)
    expected = maps.flatten(2) - s[:, :1, None] * u[:, :, :1] @ v[:, :1]
    torch.testing.assert_close(without_first_rank(maps).flatten(2), expected)


def test_rank_feat_runs_the_rest_of_the_network_on_what_is_left(
    classifier: Classifier, model: nn.Module
) -> None:
    with torch.no_grad():
        x = model.layer1(F.relu(model.bn1(model.conv1(IMAGES))))
        second = model.layer2(x)
        last = without_first_rank(model.layer3(second))
        early = model.layer3(without_first_rank(second))
        logits = [model.linear(value.mean((2, 3))) for value in (last, early)]
    detector = RankFeat(layers=("layer3", "layer2"))
    scores = detector.score(classifier(IMAGES, requires=detector.requires))
    torch.testing.assert_close(scores, -((logits[0] + logits[1]) / 2).logsumexp(1))
    with pytest.raises(InvalidInput, match="layers that return maps"):
        classifier(IMAGES, requires=RankFeat(layers=("linear",)).requires)
    with pytest.raises(InvalidInput, match="no module 'layer4'"):
        classifier(IMAGES, requires=RankFeat().requires)


def test_layers_weigh_the_same_in_the_mahalanobis_distance(
    classifier: Classifier, tmp_path: Path
) -> None:
    many = torch.randn(300, 3, 32, 32, generator=DRAW)
    labels = torch.arange(300) % 10
    detector = MultiLayerMahalanobis(layers=("layer1", "layer3"), shrinkage=0.1)
    batches = [(many[i : i + 50], labels[i : i + 50]) for i in range(0, 300, 50)]
    store = extract(classifier, batches, tmp_path / "store", requires=detector.requires)
    detector.fit(store, store.head)
    batch = classifier(IMAGES, requires=detector.requires)
    expected = torch.zeros(len(IMAGES), dtype=torch.float64)
    known = store.load()
    for tap in ("layer1:mean", "layer3:mean"):
        whiten = naive_whitening(known.taps[tap].double(), labels)
        means = torch.stack([known.taps[tap].double()[labels == c].mean(0) for c in range(10)])
        offset = batch.taps[tap].double()[:, None] - means
        expected += 0.25 * torch.einsum("ncd,de,nce->nc", offset, whiten, offset).amin(1)
    torch.testing.assert_close(detector.score(batch).double(), expected, rtol=1e-3, atol=1e-3)
    assert Mahalanobis(shrinkage=0.1).fit(store, store.head).score(batch).shape == (6,)


def naive_whitening(values: Tensor, labels: Tensor) -> Tensor:
    """The inverse of the shrunk covariance around the class means."""
    centred = torch.cat([values[labels == c] - values[labels == c].mean(0) for c in range(10)])
    covariance = centred.T @ centred / len(centred)
    sphere = covariance.trace() / len(covariance) * torch.eye(len(covariance)).double()
    return torch.linalg.inv(0.9 * covariance + 0.1 * sphere)


@pytest.mark.filterwarnings("ignore::neroli.errors.NeroliWarning")  # of few images of a class
@pytest.mark.parametrize("kind", ["odin", "nap", "rank_feat", "nac_ue", "gram"])
def test_a_guard_keeps_what_these_need_and_loads_again(
    classifier: Classifier, model: nn.Module, tmp_path: Path, kind: str
) -> None:
    layered = {"rank_feat": ("layer3", "layer2"), "gram": ("layer1", "layer3")}
    detector = create(kind, **({"layers": layered[kind]} if kind in layered else {}))
    many = list(torch.randn(120, 3, 32, 32, generator=DRAW).split(40))
    guard = Guard(classifier, detector).fit(many[:1]).calibrate(many[1:])
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", model)
    torch.testing.assert_close(loaded(IMAGES).score, guard(IMAGES).score)
    (batch,) = guard.stream([IMAGES])
    torch.testing.assert_close(batch.verdicts.score, guard(IMAGES).score)


def test_fitting_does_not_measure_what_nothing_is_learned_from(
    classifier: Classifier, tmp_path: Path
) -> None:
    many = list(torch.randn(120, 3, 32, 32, generator=DRAW).split(40))
    guard = Guard(classifier, ODIN()).fit(many[:1], store=tmp_path / "training")
    guard.calibrate(many[1:], store=tmp_path / "held_out")
    assert ActivationStore(tmp_path / "training").load().extras == {}
    (name,) = ActivationStore(tmp_path / "held_out").load().extras
    assert name.startswith("SteppedConfidence")
    lacking = RankFeat(layers=("nowhere",))
    with pytest.raises(InvalidInput, match="no module 'nowhere'"):
        Guard(classifier, lacking).fit(many[:1])


def test_channels_may_be_last_in_maps_whose_rank_is_reduced() -> None:
    maps = torch.rand(2, 8, 3, 4, generator=DRAW, dtype=torch.float64)
    last = without_first_rank(maps.movedim(1, -1), "last")
    torch.testing.assert_close(last.movedim(-1, 1), without_first_rank(maps))


def test_layers_that_change_nothing_are_refused(model: nn.Module) -> None:
    class Wider(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.unused = model, nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    with pytest.raises(InvalidInput, match="did not call the layer 'unused'"):
        Classifier(Wider())(IMAGES, requires=RankFeat(layers=("unused",)).requires)
    small = torch.randn(4, 3, 4, 4, generator=DRAW)
    with pytest.raises(InvalidInput, match="more than one place"):
        Classifier(model)(small, requires=RankFeat(layers=("layer3",)).requires)


def test_oblong_images_need_to_be_told_where_channels_are() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    images = torch.randn(5, 3, 32, 64, generator=DRAW)
    settings = {"bins": (10, 10), "full": (1, 1), "alpha": (1, 1)}
    for unclear in (create("nac_ue", layers=("0",), **settings), RankFeat(layers=("0",))):
        with pytest.raises(InvalidInput, match="@first"):
            Classifier(network)(images, requires=unclear.requires)
    told = create("nac_ue", layers=("0@first",), **settings)
    batch = Classifier(network)(images, requires=told.requires)
    assert batch.extras["0@first:effect"].shape == (5, 16)
    Classifier(network)(images, requires=RankFeat(layers=("0@first",)).requires)


def test_the_users_own_threads_see_the_network_as_it_is(model: nn.Module) -> None:
    with torch.no_grad():
        expected = model(IMAGES)
    detector, stop, seen = RankFeat(layers=("layer3", "layer2")), threading.Event(), []

    def mine() -> None:
        with torch.no_grad():
            while not stop.is_set():
                seen.append(torch.allclose(model(IMAGES), expected, atol=1e-5))

    thread = threading.Thread(target=mine)
    thread.start()
    classifier = Classifier(model)
    for _ in range(20):
        classifier(IMAGES, requires=detector.requires)
    stop.set()
    thread.join()
    assert len(seen) > 5 and all(seen)


@pytest.mark.parametrize("kind", ["odin", "i_odin", "nac_ue"])
def test_gradients_exist_in_a_callers_inference_mode_and_else_are_said_to_lack(
    model: nn.Module, kind: str
) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.body(x)

    detector = create(kind)
    classifier = Classifier(model)
    expected = classifier(IMAGES, requires=detector.requires).extras
    with torch.inference_mode():
        found = classifier(IMAGES.clone(), requires=detector.requires).extras
    for name, values in expected.items():
        torch.testing.assert_close(found[name].clone(), values)
    layers = {"layers": ("body.layer1", "body.layer2", "body.layer3")}
    detector = create(kind, **(layers if kind == "nac_ue" else {}))
    with pytest.raises(InvalidInput, match="no_grad"):
        Classifier(Detached())(IMAGES, requires=detector.requires)


def test_gradients_are_taken_of_a_few_images_at_a_time(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = ODIN(epsilon=0.01)
    expected = classifier(IMAGES, requires=detector.requires).extras
    monkeypatch.setattr("neroli.classifier._IMAGES_PROBED", 4)
    sizes = []
    handle = classifier.model.layer1.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    found = classifier(IMAGES, requires=detector.requires).extras
    handle.remove()
    assert sizes == [6, 4, 4, 2, 2]
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


@pytest.mark.parametrize("place", ["layer1@input", "layer1@relu"])
def test_probes_take_outputs_as_they_are(classifier: Classifier, place: str) -> None:
    settings = {"bins": (10, 10), "full": (1, 1), "alpha": (1, 1)}
    for detector in (RankFeat(layers=(place,)), create("nac_ue", layers=(place,), **settings)):
        with pytest.raises(InvalidInput, match="only the output as it is"):
            classifier(IMAGES, requires=detector.requires)
