"""Scores averaged over views: those of the member on changed pictures, in every use of a guard."""

from pathlib import Path

import pytest
import torch
from torch import nn

from neroli import ActivationStore, Classifier, Guard, Preprocessing, extract
from neroli.detectors import (
    KNN,
    MSP,
    CADRef,
    Detector,
    Energy,
    Ensemble,
    TemperatureScaledMSP,
    Views,
    create,
)
from neroli.errors import ArtefactError, InvalidInput, NotFitted
from neroli.execution import Execution
from neroli.fitting import fit_held_out, learns_held_out
from neroli.taps import NOTHING
from neroli.views import View
from networks import colour_loader, colour_tensors, trained_colour_network, untrained_resnet20

VIEWS = ("mirror", "left:2", "rotate:8")
DRAW = torch.Generator().manual_seed(11)
TRAINING = torch.randn(80, 3, 32, 32, generator=DRAW)
IMAGES = torch.randn(7, 3, 32, 32, generator=DRAW)
LAYERED = {
    "gram": {"layers": ("layer1", "layer3")},
    "multi_layer_mahalanobis": {"layers": ("layer2", "layer3"), "shrinkage": 0.1},
    "rank_feat": {"layers": ("layer3", "layer2")},
    "nero": {"components": 20},
    "ensemble": {"members": ["cadref", {"name": "knn", "hyperparameters": {"k": 3}}]},
}
MEMBERS = (
    *("msp", "energy", "nero", "line", "cadref", "knn", "grad_norm", "openmax"),  # of the head
    *("gram", "multi_layer_mahalanobis", "nap", "odin", "rank_feat", "nac_ue", "ensemble"),
)

pytestmark = pytest.mark.filterwarnings("ignore::neroli.errors.NeroliWarning")  # of few images


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return untrained_resnet20()


@pytest.fixture
def classifier(model: nn.Module) -> Classifier:
    return Classifier(model, preprocessing=Preprocessing((0.5,) * 3, (0.2, 0.25, 0.3)))


def member(name: str) -> Detector:
    return create(name, **LAYERED.get(name, {}))


def fitted(detector: Detector, classifier: Classifier, path: Path) -> Detector:
    labels = torch.arange(80) % 10
    batches = [(TRAINING[i : i + 40], labels[i : i + 40]) for i in (0, 40)]
    store = extract(classifier, batches, path, requires=detector.requires_to_fit)
    return detector.fit(store, store.head)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_score_is_the_mean_of_the_members_scores_of_changed_pictures(
    classifier: Classifier, name: str, tmp_path: Path
) -> None:
    alone = fitted(member(name), classifier, tmp_path / "alone")
    changed = [IMAGES, *(View.parse(view)(IMAGES) for view in VIEWS)]
    scores = [alone.score(classifier(each, requires=alone.requires)) for each in changed]
    views = Views(member(name), VIEWS)
    fitted(views, classifier, tmp_path / "views")
    found = views.score(classifier(IMAGES, requires=views.requires))
    torch.testing.assert_close(found, torch.stack(scores).mean(0), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, scores[0], rtol=1e-4, atol=1e-6), "the views say something"
    for size in (1, 3):
        parts = [views.score(classifier(x, requires=views.requires)) for x in IMAGES.split(size)]
        torch.testing.assert_close(torch.cat(parts), found, rtol=1e-4, atol=1e-4)


def test_views_of_views_are_all_pairs(classifier: Classifier, tmp_path: Path) -> None:
    views = Views(Views(CADRef(), ("mirror",)), ("up:3",))
    fitted(views, classifier, tmp_path / "views")
    alone = fitted(CADRef(), classifier, tmp_path / "alone")
    up = View("up", 3)(IMAGES)
    changed = [IMAGES, View("mirror")(IMAGES), up, View("mirror")(up)]
    expected = torch.stack([alone.score(classifier(each)) for each in changed]).mean(0)
    found = views.score(classifier(IMAGES, requires=views.requires))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_members_of_an_ensemble_may_have_views(classifier: Classifier, tmp_path: Path) -> None:
    """Of the same view too, of which one needs more than the other."""
    of_layers = Views(create("nap"), ("mirror",))
    pair = Ensemble([Views(Energy(), ("mirror",)), of_layers])
    fitted(pair, classifier, tmp_path / "s")
    batch = classifier(IMAGES, requires=pair.requires)
    scores = torch.stack([each.score(batch) for each in pair.members], 1)
    expected = ((scores - pair.medians) / pair.units).clamp(-3, 6).mean(1)
    torch.testing.assert_close(pair.score(batch), expected.float(), rtol=1e-4, atol=1e-4)


def test_it_learns_what_the_member_learns_from_the_images_alone(
    classifier: Classifier, tmp_path: Path
) -> None:
    mine = CADRef()
    views = Views(mine, VIEWS)
    assert views.requires_to_fit == NOTHING
    fitted(views, classifier, tmp_path / "s")
    assert ActivationStore(tmp_path / "s").load().extras == {}
    alone = fitted(CADRef(), classifier, tmp_path / "s")
    for name, value in alone.state().items():
        found = views.state()[name if name.startswith("head.") else f"member.0.{name}"]
        assert torch.equal(found, value)
    assert mine.head is None, "the user's own is left alone"
    assert views.assumed == alone.assumed


def test_held_out_images_teach_the_member(classifier: Classifier, tmp_path: Path) -> None:
    views, alone = Views(TemperatureScaledMSP(), ("mirror",)), TemperatureScaledMSP()
    for detector in (views, alone):
        fitted(detector, classifier, tmp_path / "s")
    store = ActivationStore(tmp_path / "s")
    assert learns_held_out(views, store.head) == (True, True)
    assert learns_held_out(Views(Energy(), ("mirror",)).fit(store, store.head), store.head) == (
        False,
        False,
    )
    fit_held_out([views, alone], store, store.head)
    state = {key.removeprefix("member.0."): value for key, value in views.state().items()}
    assert all(torch.equal(state[key], value) for key, value in alone.state().items())


def test_shares_are_the_mean_of_those_of_the_views(classifier: Classifier, tmp_path: Path) -> None:
    views, alone = Views(create("cadref"), VIEWS), create("cadref")
    for detector in (views, alone):
        fitted(detector, classifier, tmp_path / "s")
    batch = classifier(IMAGES, requires=views.requires)
    shares = views.shares(batch)
    torch.testing.assert_close(shares.score, views.score(batch), rtol=1e-4, atol=1e-5)
    changed = [IMAGES, *(View.parse(view)(IMAGES) for view in VIEWS)]
    neurons = torch.stack([alone.shares(classifier(each)).neurons for each in changed]).mean(0)
    torch.testing.assert_close(shares.neurons, neurons, rtol=1e-4, atol=1e-5)
    assert views.is_additive and not Views("knn", VIEWS).is_additive
    assert torch.equal(views.compared_class(batch), batch.predictions)


def test_hyperparameters_make_it_again() -> None:
    views = Views(Ensemble([KNN(k=7), "msp"]), ["mirror", "rotate:5.0"])
    again = create("views", **views.hyperparameters())
    assert again.hyperparameters() == views.hyperparameters()
    assert again.hyperparameters()["views"] == ("mirror", "rotate:5")
    assert again.detector.members[0].k == 7


@pytest.mark.parametrize(
    ("detector", "views", "message"),
    [
        ("knn", (), r"No view is named: name those that leave the class .*--set views=mirror"),
        ("knn", "mirror", "views='mirror' does not suit Views"),
        ("knn", ("mirorr",), "'mirorr' is no view of a picture"),
        ("knn", ("left:2", "left:02"), "'left:2' is named twice"),
        ("knnn", ("mirror",), "did you mean 'knn'"),
        (KNN, ("mirror",), "The detector of views must be a detector, its name"),
        ({"name": "knn", "k": 5}, ("mirror",), "The detector of views must be"),
    ],
)
def test_what_is_no_detector_or_view_is_refused(
    detector: object, views: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Views(detector, views)


def test_it_must_be_fitted_and_given_its_views(classifier: Classifier, tmp_path: Path) -> None:
    views = Views(MSP(), ("mirror",))
    with pytest.raises(NotFitted, match="fit"):
        views.score(classifier(IMAGES, requires=views.requires))
    fitted(views, classifier, tmp_path / "s")
    with pytest.raises(InvalidInput, match=r"lack 'mirror/features', .*requires=detector.requires"):
        views.score(classifier(IMAGES))
    with pytest.raises(ArtefactError, match="more than the 1 members"):
        Views(MSP(), ("mirror",)).load_state(views.state() | {"member.1.x": torch.zeros(1)})


def views_guard(detector: object = "cadref") -> Guard:
    return Guard(Classifier(trained_colour_network()), Views(detector, ("mirror", "up:1")))


@pytest.mark.parametrize("name", ["knn", "odin", "temperature_scaled_msp", "nap", "gram"])
def test_a_guard_calibrates_saves_loads_and_scores_with_views(tmp_path: Path, name: str) -> None:
    settings = {"layers": ["2"]} if name == "gram" else {}
    guard = views_guard({"name": name, "hyperparameters": settings}).fit(colour_loader(150, 1))
    guard.calibrate(colour_loader(120, 2))
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    images = colour_tensors(20, 3)[0]
    verdicts = loaded(images)
    assert torch.equal(verdicts.score, guard(images).score)
    assert torch.equal(verdicts.is_ood, guard(images).is_ood)
    streamed = torch.cat([b.verdicts.score for b in loaded.stream(images.split(7))])
    torch.testing.assert_close(streamed, verdicts.score, rtol=1e-4, atol=1e-5)
    assert loaded.detector.hyperparameters() == guard.detector.hyperparameters()


def test_the_threshold_is_of_averaged_scores() -> None:
    """Whatever the images, as many ordinary ones as promised are flagged, and noise is."""
    guard = views_guard("knn").fit(colour_loader(150, 1)).calibrate(colour_loader(300, 2))
    assert guard(colour_tensors(300, 5)[0]).is_ood.float().mean() < 0.1
    assert guard(5 * torch.randn(40, 3, 8, 8, generator=DRAW)).is_ood.float().mean() > 0.9


def test_stores_serve_if_they_keep_the_views(tmp_path: Path) -> None:
    guard = views_guard().fit(colour_loader(150, 1))
    images, requires = colour_tensors(120, 2)[0], guard.detector.requires
    kept = extract(guard.classifier, images, tmp_path / "kept", requires=requires)
    from_store = guard.calibrate(kept).calibration
    assert from_store is not None
    direct = guard.calibrate(images).calibration
    assert direct is not None
    assert from_store.threshold == pytest.approx(direct.threshold, rel=1e-5)
    plain = extract(guard.classifier, images, tmp_path / "plain")
    with pytest.raises(InvalidInput, match="mirror/features"):
        guard.calibrate(plain)
    half = extract(guard.classifier, images, tmp_path / "half", requires=requires, dtype="float16")
    rounded = guard.calibrate(half).calibration
    assert rounded is not None
    assert rounded.threshold == pytest.approx(direct.threshold, rel=1e-2)


def test_explanations_say_what_the_averaged_score_is_made_of() -> None:
    guard = views_guard().fit(colour_loader(150, 1)).calibrate(colour_loader(120, 2))
    images = colour_tensors(3, 9)[0]
    for image, score in zip(images, guard(images).score.tolist(), strict=True):
        explanation = guard.explain(image)
        assert explanation.score == pytest.approx(score, rel=1e-4)
        shares = explanation.neurons.shares
        assert shares is not None
        assert float(shares.score) == pytest.approx(score, rel=1e-4)


def test_views_run_in_the_guards_precision(model: nn.Module, tmp_path: Path) -> None:
    half = Classifier(model, execution=Execution("bfloat16"))
    views = fitted(Views(Energy(), ("mirror",)), half, tmp_path / "s")
    changed = [half(IMAGES), half(View("mirror")(IMAGES))]
    expected = torch.stack([-batch.logits.logsumexp(1) for batch in changed]).mean(0)
    torch.testing.assert_close(views.score(half(IMAGES, requires=views.requires)), expected)


def test_what_is_no_picture_has_no_views() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    rows = torch.randn(30, 6, generator=DRAW)
    guard = Guard(Classifier(network), Views(MSP(), ("mirror",))).fit([rows])
    with pytest.raises(InvalidInput, match=r"of pictures .*\[\d+, 6\]"):
        guard.calibrate([rows])
