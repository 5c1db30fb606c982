"""Feature taps: what layers return, pooled while the network runs, and stored."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli import Activations, Classifier, Guard, extract
from neroli.detectors import Detector, names
from neroli.detectors import register as register_detector
from neroli.detectors.base import learned
from neroli.errors import ArtefactError, HeadNotFound, InvalidInput
from neroli.fitting import Learning, fit
from neroli.models import import_torchvision
from neroli.models.cifar import ResNet20
from neroli.statistics import Mean
from neroli.taps import Requirements, Site, Tap, pooled
from networks import colour_loader, tiny_network, trained_colour_network

DRAW = torch.Generator().manual_seed(3)
PICTURES = torch.randn(5, 3, 32, 32, generator=DRAW)


def every_pooling(layer: str) -> tuple[Tap, ...]:
    return tuple(Tap(layer, pooling) for pooling in ("mean", "max", "sum"))


def test_pooled_values_equal_those_of_a_hand_written_forward_pass_of_a_resnet() -> None:
    model = ResNet20().eval()
    requires = Requirements((*every_pooling("layer1"), *every_pooling("layer3.1")), prepool=True)
    taps = Classifier(model)(PICTURES, requires=requires)
    with torch.no_grad():
        first = model.layer1(F.relu(model.bn1(model.conv1(PICTURES))))
        middle = model.layer3[1](model.layer3[0](model.layer2(first)))
        last = model.layer3[2](middle)
    for layer, value in (("layer1", first), ("layer3.1", middle)):
        torch.testing.assert_close(taps.taps[f"{layer}:mean"], value.mean((2, 3)))
        torch.testing.assert_close(taps.taps[f"{layer}:max"], value.amax((2, 3)))
        torch.testing.assert_close(taps.taps[f"{layer}:sum"], value.sum((2, 3)))
    torch.testing.assert_close(taps.extras["prepool_max"], last.amax((2, 3)))
    torch.testing.assert_close(taps.extras["prepool_mean"], last.mean((2, 3)))
    torch.testing.assert_close(taps.extras["prepool_mean"], taps.features)


def test_pooled_values_equal_those_of_a_hand_written_forward_pass_of_a_vit() -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7).eval()
    activations = Classifier(model)(PICTURES, requires=Requirements(every_pooling("blocks.4")))
    with torch.no_grad():
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(PICTURES))))
        for block in model.blocks[:5]:
            tokens = block(tokens)
    assert tokens.shape == (5, 5, 192)
    torch.testing.assert_close(activations.taps["blocks.4:mean"], tokens.mean(1))
    torch.testing.assert_close(activations.taps["blocks.4:max"], tokens.amax(1))
    torch.testing.assert_close(activations.taps["blocks.4:sum"], tokens.sum(1))


def test_a_layer_is_seen_before_a_later_one_works_in_place() -> None:
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(8 * 36, 4)).eval()
    images = PICTURES[:, :, :8, :8]
    activations = Classifier(model)(images, requires=Requirements((Tap("1"), Tap("1@relu", "max"))))
    with torch.no_grad():
        normalised = model[1](model[0](images))
    assert (normalised < 0).any()
    torch.testing.assert_close(activations.taps["1:mean"], normalised.mean((2, 3)))
    torch.testing.assert_close(activations.taps["1@relu:max"], normalised.relu().amax((2, 3)))


def test_channels_are_found_where_the_map_tells_and_asked_for_where_not() -> None:
    first = torch.rand(2, 5, 3, 3, generator=DRAW)
    last = first.movedim(1, -1).contiguous()
    assert torch.equal(pooled(first, "max"), first.amax((2, 3)))
    assert torch.equal(pooled(last, "max"), first.amax((2, 3)))
    wide = torch.rand(2, 5, 3, 4, generator=DRAW)
    with pytest.raises(InvalidInput, match=r"\[2, 5, 3, 4\] does not tell.*@first"):
        pooled(wide, "mean")
    assert pooled(wide, "mean", "first").shape == (2, 5)
    assert pooled(wide, "mean", "last").shape == (2, 4)
    assert pooled(wide.half(), "sum", "first").dtype == torch.float32
    with pytest.raises(InvalidInput, match=r"returns \[7\] cannot be tapped"):
        pooled(torch.zeros(7), "mean")


@pytest.mark.parametrize(
    "text", ["layer3", "avgpool@input", "norm@relu,last", "x@input,relu,first"]
)
def test_sites_are_written_as_they_are_read(text: str) -> None:
    assert str(Site.parse(text)) == text


def test_malformed_taps_are_refused() -> None:
    with pytest.raises(InvalidInput, match="pooling='median' does not suit Tap"):
        Tap("layer1", "median")  # type: ignore[arg-type]
    for text in ("layer1@sideways", "@input", ""):
        with pytest.raises(InvalidInput, match="is no layer"):
            Tap(text)


def test_a_missing_layer_is_named() -> None:
    classifier = Classifier(ResNet20())
    with pytest.raises(InvalidInput, match="no module 'layer9'.*it has"):
        classifier(PICTURES, requires=Requirements((Tap("layer9"),)))
    with pytest.raises(InvalidInput, match="no module 'layer9'"):
        Classifier(ResNet20(), prepool="layer9")


class Normalised(nn.Module):
    """A norm stands between pooling and head, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.fc = tiny_network()[:4], nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.body(x).mean((2, 3))))


def test_the_map_before_pooling_is_found_by_numbers_or_named() -> None:
    classifier = Classifier(tiny_network())
    classifier(PICTURES, requires=Requirements(prepool=True))
    assert classifier.prepool_name == "4@input,first"
    with pytest.raises(HeadNotFound, match="a norm stands between.*prepool="):
        Classifier(Normalised())(PICTURES, requires=Requirements(prepool=True))
    model = Normalised().eval()
    named = Classifier(model, prepool="body")(PICTURES, requires=Requirements(prepool=True))
    with torch.no_grad():
        torch.testing.assert_close(named.extras["prepool_max"], model.body(PICTURES).amax((2, 3)))


def test_nothing_is_kept_or_hooked_when_nothing_is_asked_for() -> None:
    model = ResNet20()
    activations = Classifier(model)(PICTURES)
    assert not activations.taps
    assert not activations.extras
    Classifier(model)(PICTURES, requires=Requirements((Tap("layer1"),), prepool=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_taps_are_stored_beside_the_features(classifier: Classifier, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "images", 30, seed=1)
    requires = Requirements((Tap("2", "max"),), prepool=True)
    store = extract(classifier, folder, tmp_path / "store", batch_size=7, requires=requires)
    loaded = store.load()
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix())
    direct = classifier(paths, requires=requires)
    torch.testing.assert_close(loaded.taps["2:max"], direct.taps["2:max"])
    for name in ("prepool_max", "prepool_mean"):
        torch.testing.assert_close(loaded.extras[name], direct.extras[name])
    again = extract(classifier, folder, tmp_path / "store")
    assert not again.load().taps


@dataclass(eq=False)
class TapDistance(Detector):
    """How far the tapped layer lies from its mean over training: a detector with requirements."""

    name = "tap_distance"
    layer: str = "2"
    centre: Tensor = learned()

    @property
    def requires(self) -> Requirements:
        return Requirements((Tap(self.layer, "max"),), prepool=True)

    def learn(self, head: object) -> Learning:
        self.centre = yield Mean(self._tapped)

    def compute(self, batch: Activations) -> Tensor:
        return (batch.taps[f"{self.layer}:max"] - self.centre).abs().sum(1)

    def _tapped(self, batch: Activations) -> Tensor:
        return batch.taps[f"{self.layer}:max"]


@pytest.fixture
def registered() -> None:
    if "tap_distance" not in names():
        register_detector(TapDistance)


@pytest.mark.usefixtures("registered")
def test_a_guard_gives_its_detector_what_it_requires(
    classifier: Classifier, tmp_path: Path
) -> None:
    guard = Guard(classifier, TapDistance()).fit(colour_loader(90, 1))
    guard.calibrate(colour_loader(60, 2, labels=False))
    images = torch.cat([x for (x,) in colour_loader(20, 3, labels=False)])
    scores = guard(images).score
    with torch.no_grad():
        tapped = classifier.model[:3](images).amax((2, 3))
        training = torch.cat(
            [classifier.model[:3](x).amax((2, 3)) for x, _ in colour_loader(90, 1)]
        )
    torch.testing.assert_close(scores, (tapped - training.mean(0)).abs().sum(1))
    (batch,) = guard.stream([images])
    torch.testing.assert_close(batch.verdicts.score, scores)
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    torch.testing.assert_close(loaded(images).score, scores)
    part = guard.manifest().classifier
    assert (part.taps, part.prepool) == (["2:max"], "4@input,first")


@pytest.mark.usefixtures("registered")
def test_a_loaded_guard_names_a_tapped_layer_that_is_missing(
    classifier: Classifier, tmp_path: Path
) -> None:
    guard = Guard(classifier, TapDistance()).fit(colour_loader(90, 1))
    guard.save(tmp_path / "guard")
    manifest = tmp_path / "guard" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"layer": "2"', '"layer": "stem"'))
    with pytest.raises((InvalidInput, ArtefactError), match="no module 'stem'"):
        Guard.load(tmp_path / "guard", trained_colour_network())


def test_activations_without_the_tap_are_refused_when_fitting_and_scoring(
    classifier: Classifier,
) -> None:
    images, labels = next(iter(colour_loader(30, 1)))
    bare = classifier(images, labels)
    with pytest.raises(InvalidInput, match="lack '2:max'.*requires=detector.requires"):
        fit([TapDistance()], bare, classifier.head)
    detector = TapDistance()
    whole = classifier(images, labels, requires=detector.requires)
    fit([detector], whole, classifier.head)
    with pytest.raises(InvalidInput, match="lack '2:max'"):
        detector.score(bare)
    some = Activations(bare.features, bare.logits, taps=whole.taps)
    with pytest.raises(InvalidInput, match="lack 'prepool_max'"):
        detector.score(some)


def test_requirements_of_several_detectors_add_up() -> None:
    one, other = Requirements((Tap("a"), Tap("b"))), Requirements((Tap("b"), Tap("c")), True)
    assert one | other == Requirements((Tap("a"), Tap("b"), Tap("c")), True)


def test_preprocessing_is_kept_when_taps_are_asked_for() -> None:
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8)
    assert classifier(picture, requires=Requirements((Tap("0"),))).taps["0:mean"].shape == (1, 16)


class Odd(nn.Module):
    """Layers that return nothing, and maps of an oblong image."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing, self.map = Nothing(), nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.nothing(x)
        return self.head(self.map(x).mean((2, 3)))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


def test_layers_that_cannot_be_tapped_say_so() -> None:
    classifier = Classifier(Odd())
    oblong = torch.randn(4, 3, 16, 32, generator=DRAW)
    with pytest.raises(InvalidInput, match="'nothing' cannot be tapped: it yields no tensor"):
        classifier(oblong, requires=Requirements((Tap("nothing"),)))
    with pytest.raises(InvalidInput, match=r"\[4, 16, 16, 32\] does not tell"):
        classifier(oblong, requires=Requirements((Tap("map"),)))
    named = classifier(oblong, requires=Requirements((Tap("map@first"),)))
    torch.testing.assert_close(named.taps["map@first:mean"], named.features)


def test_the_map_before_pooling_is_found_in_half_precision() -> None:
    classifier = Classifier(tiny_network().bfloat16())
    batch = classifier(PICTURES, requires=Requirements(prepool=True))
    assert batch.extras["prepool_mean"].shape == (5, 16)


def test_taps_that_are_not_numbers_are_noticed(classifier: Classifier) -> None:
    images, labels = next(iter(colour_loader(30, 1)))
    whole = classifier(images, labels, requires=TapDistance().requires)
    whole.taps["2:max"][3] = torch.nan
    with pytest.raises(InvalidInput, match="taps of row 3 hold NaN"):
        TapDistance().fit(whole, classifier.head)
