"""Ensembles: standardised scores of members, learned from held-out images by a guard."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from conftest import COLOUR_PREPROCESSING, random_activations, write_pictures
from neroli import Activations, Classifier, Guard, LinearHead, fit
from neroli.activations import Rows
from neroli.detectors import KNN, Detector, Energy, Ensemble, MaxLogit, TemperatureScaledMSP, create
from neroli.errors import InvalidInput, NeroliWarning, NotEnoughImages
from neroli.fitting import fit_held_out, learns_held_out
from networks import colour_loader, colour_tensors, trained_colour_network


def members() -> list[Detector]:
    return [Energy(), KNN(k=5)]


def test_the_score_is_the_mean_of_standardised_scores(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    ensemble = Ensemble(members()).fit(training, head)
    parts = fit(members(), training, head)
    expected = np.zeros(len(new))
    for part in parts:
        median, upper = np.quantile(part.score(training).numpy(), [0.5, 0.95])
        expected += np.clip((part.score(new).numpy() - median) / (upper - median), -3, 6) / 2
    np.testing.assert_allclose(ensemble.score(new).numpy(), expected, rtol=1e-9)
    largest = Ensemble(members(), combine="max").fit(training, head).score(new)
    assert (largest >= ensemble.score(new)).all()


def test_held_out_images_replace_the_standardisation_alone(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    assert learns_held_out(Ensemble(members()).fit(training, head), head) == (False, False)
    warm = Ensemble([Energy(), TemperatureScaledMSP()]).fit(training, head)
    assert learns_held_out(warm, head) == (True, True)
    ensemble = Ensemble(members(), standardise_on="held-out").fit(training, head)
    before = ensemble.members[1].state()
    assert learns_held_out(ensemble, head) == (True, False)
    fit_held_out([ensemble], new, head)
    scores = np.stack([member.score(new).numpy() for member in ensemble.members])
    np.testing.assert_allclose(ensemble.medians, np.median(scores, axis=1))
    alone = Ensemble([Energy()], standardise_on="held-out").fit(training, head)
    fit_held_out([alone], new, head)
    assert float((alone.score(new) > 1).double().mean()) == pytest.approx(0.05, abs=1 / len(new))
    after = ensemble.members[1].state()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_members_given_by_the_user_are_not_touched(training: Activations, head: LinearHead) -> None:
    mine = KNN(k=5)
    Ensemble([mine, Energy()]).fit(training, head)
    assert mine.head is None


def test_a_member_that_does_not_vary_counts_as_zero(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    flat = Activations(training.features, training.logits * 0, training.labels)
    with pytest.warns(NeroliWarning, match=r"1 of 2 members .* count for nothing .max_logit."):
        ensemble = Ensemble([MaxLogit(), KNN(k=5)]).fit(flat, head)
    alone = Ensemble([KNN(k=5)]).fit(flat, head)
    torch.testing.assert_close(ensemble.score(new), alone.score(new) / 2)


@pytest.mark.parametrize("standardise_on", ["training", "held-out"])
def test_members_none_of_which_varies_are_refused_as_no_image_could_be_flagged(
    standardise_on: Literal["training", "held-out"], training: Activations, head: LinearHead
) -> None:
    alike = training.select(torch.zeros(50, dtype=torch.long))
    ensemble = Ensemble(["cadref", "vim"], standardise_on=standardise_on)
    source = alike if standardise_on == "training" else training
    with pytest.raises(NotEnoughImages, match="All 2 members .* the 50 images .* alike"):
        fit_held_out([ensemble.fit(source, head)], alike, head)


@pytest.mark.parametrize("bad", [[], "knn", [3], [{"name": 5}], KNN()])
def test_what_is_no_list_of_detectors_is_refused(bad: object) -> None:
    with pytest.raises(InvalidInput, match="ensemble"):
        Ensemble(bad)


def test_the_tree_of_members_makes_it_again() -> None:
    nested = Ensemble([KNN(k=7), Ensemble([Energy(2.0)], combine="max")])
    again = create("ensemble", **nested.hyperparameters())
    assert again.hyperparameters() == nested.hyperparameters()
    assert again.members[0].k == 7  # type: ignore[attr-defined]


def test_a_guard_learns_from_half_of_the_calibration_images_and_says_so(tmp_path: Path) -> None:
    classifier = Classifier(trained_colour_network())
    guard = Guard(classifier, Ensemble(members(), standardise_on="held-out")).fit(
        colour_loader(150, 1)
    )
    from_training = guard.detector.medians.clone()  # type: ignore[attr-defined]
    guard.calibrate(colour_loader(120, 2, labels=False))
    assert guard.held_out is not None
    assert (guard.held_out.images, guard.held_out.learned_from) == (60, 60)
    assert not torch.equal(guard.detector.medians, from_training)  # type: ignore[attr-defined]
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    images = colour_tensors(9, 3)[0]
    assert torch.equal(loaded(images).score, guard(images).score)
    plain = Guard(classifier, Energy()).fit(colour_loader(150, 1))
    plain.calibrate(colour_loader(120, 2, labels=False))
    assert plain.held_out is not None
    assert (plain.held_out.images, plain.held_out.learned_from) == (120, 0)


def test_calibration_folders_need_no_classes_where_no_labels_are_learned_from(
    tmp_path: Path,
) -> None:
    for number, hospital in enumerate(("north", "south", "east", "west")):
        write_pictures(tmp_path / hospital, 30, seed=number, by_class=False)
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    guard = Guard(classifier, Ensemble(members(), standardise_on="held-out")).fit(
        colour_loader(150, 1)
    )
    with pytest.warns(match="known by a hash of the tensor"):
        guard.calibrate(tmp_path)
    assert guard.calibration is not None


def test_the_half_does_not_depend_on_the_order_of_the_images() -> None:
    thresholds = []
    batches = list(colour_loader(120, 2, labels=False))
    for order in (batches, batches[::-1]):
        guard = Guard(
            Classifier(trained_colour_network()), Ensemble(members(), standardise_on="held-out")
        )
        guard.fit(colour_loader(150, 1)).calibrate(order)
        assert guard.calibration is not None
        thresholds.append(guard.calibration.threshold)
    assert thresholds[0] == pytest.approx(thresholds[1])


def test_a_temperature_is_learned_from_labelled_calibration_images() -> None:
    guard = Guard(Classifier(trained_colour_network()), TemperatureScaledMSP())
    guard.fit(colour_loader(150, 1)).calibrate(colour_loader(120, 2))
    assert guard.held_out is not None
    assert guard.held_out.learned_from == 60


def test_rows_of_a_source_are_those_asked_for(training: Activations) -> None:
    mask = torch.arange(len(training)) % 3 == 0
    rows = Rows(training, mask)
    batches = list(rows.batches(50))
    assert len(rows) == sum(len(batch) for batch in batches) == int(mask.sum())
    features = torch.cat([batch.features for batch in batches])
    assert torch.equal(features, training.features[mask])
    ids = [name for batch in batches for name in batch.ids or ()]
    assert ids == [name for name, kept in zip(training.ids or (), mask, strict=True) if kept]


def test_members_that_learned_the_same_tensor_can_be_saved(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    pair = Ensemble(["mahalanobis", "relative_mahalanobis"]).fit(training, head)
    restored = Ensemble(["mahalanobis", "relative_mahalanobis"]).load_state(
        load(save(pair.state()))
    )
    assert torch.equal(restored.score(new), pair.score(new))


def test_members_are_described_without_slips() -> None:
    for slip in ({"name": "knn", "k": 5}, {"name": "knn", "hyperparameter": {}}, {"k": 5}, 1):
        with pytest.raises(InvalidInput, match="member of an ensemble"):
            Ensemble([slip])
    with pytest.raises(InvalidInput, match="member of an ensemble"):
        Ensemble([{"name": "knn", "hyperparameters": None}])


def test_a_score_that_varies_by_rounding_alone_counts_as_zero(head: LinearHead) -> None:
    training = random_activations(head, 100)
    with pytest.warns(NeroliWarning, match=r"nothing .knn.*standardise_on='held-out'"):
        pair = Ensemble([KNN(k=1), "msp"]).fit(training, head)
    assert pair.score(random_activations(head, 20, seed=3)).abs().max() < 1e3


def test_some_of_many_training_images_standardise(
    new: Activations, head: LinearHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = random_activations(head, 2000)
    whole = Ensemble(members()).fit(training, head)
    monkeypatch.setattr("neroli.detectors.ensemble._SAMPLE", 500)
    some = Ensemble(members()).fit(training, head)
    other_order = training.select(torch.randperm(2000))
    again = Ensemble(members()).fit(other_order, head)
    torch.testing.assert_close(again.medians, some.medians)
    assert not torch.equal(some.medians, whole.medians)
    torch.testing.assert_close(some.units, whole.units, rtol=0.15, atol=0)
    torch.testing.assert_close(some.score(new), whole.score(new), rtol=0.2, atol=0.2)
