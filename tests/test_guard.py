"""The guard: fit, calibrate, verdicts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_pictures
from neroli import Classifier, Guard, Preprocessing, extract
from neroli.detectors import MSP, NERO, Energy, LINe
from neroli.errors import (
    CalibrationOverlap,
    InvalidInput,
    LabelsRequired,
    NeroliWarning,
    NotCalibrated,
    NotEnoughImages,
    NotFitted,
)
from networks import (
    colour_images,
    colour_loader,
    colour_tensors,
    tiny_network,
    trained_colour_network,
)

NEW = colour_tensors(50, 3)[0]


def test_verdicts_follow_from_scores_and_calibration(guard: Guard) -> None:
    verdicts = guard(NEW)
    activations = guard.classifier(NEW)
    held_out = guard.classifier(colour_tensors(120, 2)[0])
    calibration = guard.detector.score(held_out).double()
    scores = guard.detector.score(activations)
    assert torch.equal(verdicts.score, scores)
    assert torch.equal(verdicts.predicted_class, activations.logits.argmax(1))
    by_hand = [(1 + (calibration >= s).sum().item()) / 121 for s in scores]
    np.testing.assert_allclose(verdicts.p_value, by_hand)
    assert guard.calibration is not None
    assert torch.equal(verdicts.is_ood, scores.double() > guard.calibration.threshold)
    assert len(verdicts) == 50


def test_far_images_are_flagged_and_most_ordinary_ones_are_not(guard: Guard) -> None:
    white = 6 + torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert guard(NEW).is_ood.float().mean() <= 0.15
    assert guard(white).is_ood.float().mean() >= 0.5


def test_every_form_of_image_gets_the_same_verdict(guard: Guard, tmp_path: Path) -> None:
    pictures, _ = colour_images(5, seed=3)
    expected = guard(NEW[:5]).score
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    for form in (pictures, [Image.fromarray(p) for p in pictures], paths):
        torch.testing.assert_close(guard(form).score, expected)
    bare = Guard(Classifier(guard.classifier.model), MSP())
    bare.fit(colour_loader(90, 1)).calibrate(colour_loader(60, 2))
    with pytest.raises(InvalidInput, match="need preprocessing"):
        bare(pictures)


def test_two_guards_on_one_model_do_not_touch_each_other(classifier: Classifier) -> None:
    alone = Guard(classifier, NERO()).fit(colour_loader(150, 1)).calibrate(colour_loader(90, 2))
    expected = alone(NEW).score
    model = classifier.model
    one = (
        Guard(Classifier(model), NERO()).fit(colour_loader(150, 1)).calibrate(colour_loader(90, 2))
    )
    other = (
        Guard(Classifier(model), LINe()).fit(colour_loader(120, 5)).calibrate(colour_loader(90, 6))
    )
    other(NEW)
    assert torch.equal(one(NEW).score, expected)


def test_refit_replaces_and_drops_the_calibration(guard: Guard) -> None:
    guard.fit(colour_loader(120, 9))
    with pytest.raises(NotCalibrated, match="calibrate"):
        guard(NEW)
    fresh = (
        Guard(guard.classifier, NERO()).fit(colour_loader(120, 9)).calibrate(colour_loader(90, 2))
    )
    assert torch.equal(guard.calibrate(colour_loader(90, 2))(NEW).score, fresh(NEW).score)


def test_steps_out_of_order_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    guard = Guard(classifier, NERO())
    with pytest.raises(NotFitted, match="before calibrating"):
        guard.calibrate(colour_loader(90, 2))
    with pytest.raises(NotFitted, match="nothing to save|not fitted"):
        guard.save(tmp_path / "guard")
    with pytest.raises(NotCalibrated):
        guard(NEW)
    assert not (tmp_path / "guard").exists()


def test_training_images_among_the_calibration_images_are_dropped(classifier: Classifier) -> None:
    images, labels = colour_tensors(150, 1)
    held_out = colour_tensors(199, 2)[0]
    guard = Guard(classifier, MSP()).fit([(images, labels)])
    guard.calibrate([torch.cat([held_out, images[:1]])])
    assert guard.held_out is not None
    assert (guard.held_out.images, guard.held_out.duplicates_dropped) == (199, 1)
    assert guard.calibration is not None
    assert len(guard.calibration) == 199
    with pytest.raises(CalibrationOverlap, match="4 of 203"):
        guard.calibrate([torch.cat([held_out, images[:4]])])


def test_copies_of_one_image_count_once(classifier: Classifier) -> None:
    guard = Guard(classifier, MSP()).fit(colour_loader(150, 1))
    held_out = colour_tensors(60, 2)[0]
    guard.calibrate([torch.cat([held_out, held_out[:1].expand(40, -1, -1, -1)])])
    assert guard.held_out is not None
    assert (guard.held_out.images, guard.held_out.duplicates_dropped) == (60, 40)
    with pytest.raises(NotEnoughImages, match="got 1"):
        guard.calibrate([held_out[:1].repeat(100, 1, 1, 1)])


def test_changed_weights_are_noticed(guard: Guard, tmp_path: Path) -> None:
    guard.classifier.model[6].weight.data.add_(0.1)
    with pytest.raises(InvalidInput, match="weights have changed"):
        guard.save(tmp_path / "guard")
    with pytest.raises(InvalidInput, match="weights have changed"):
        guard.calibrate(colour_loader(90, 2))


def test_too_few_calibration_images_are_refused_and_the_old_threshold_stays(guard: Guard) -> None:
    before = guard(NEW).p_value
    with pytest.raises(NotEnoughImages, match="at least 45 calibration images, got 44"):
        guard.calibrate(colour_loader(44, 5))
    assert torch.equal(guard(NEW).p_value, before)


def test_labels_are_required_unless_told_otherwise(classifier: Classifier) -> None:
    with pytest.raises(LabelsRequired):
        Guard(classifier, NERO()).fit(colour_loader(90, 1, labels=False))
    guard = Guard(classifier, NERO(labels="predicted")).fit(colour_loader(90, 1, labels=False))
    assert guard.training is not None
    assert guard.training.accuracy is None


def test_labels_that_do_not_agree_with_the_model_are_warned_of(classifier: Classifier) -> None:
    images, labels = colour_tensors(150, 1)
    with pytest.warns(NeroliWarning, match="no better than chance.*'blue' are predicted as"):
        Guard(classifier, MSP()).fit([(images, (labels + 1) % 3)])
    swapped = torch.tensor([1, 0, 2])[labels]
    with pytest.warns(NeroliWarning, match="'blue' are predicted as 'green'"):
        Guard(classifier, MSP()).fit([(images, swapped)])


def test_calibration_without_a_common_class_is_warned_of(classifier: Classifier) -> None:
    images, labels = colour_tensors(240, 2)
    guard = Guard(classifier, MSP()).fit(colour_loader(150, 1))
    with pytest.warns(NeroliWarning, match="No calibration image is predicted as red:"):
        guard.calibrate([images[labels != 2]])


def test_a_guard_can_be_made_from_stored_activations(
    classifier: Classifier, tmp_path: Path
) -> None:
    direct = Guard(classifier, NERO()).fit(colour_loader(150, 1)).calibrate(colour_loader(120, 2))
    training = extract(classifier, colour_loader(150, 1), tmp_path / "training")
    held_out = extract(classifier, colour_loader(120, 2), tmp_path / "held out")
    stored = Guard(Classifier(classifier.model), NERO()).fit(training).calibrate(held_out)
    assert torch.equal(stored(NEW).score, direct(NEW).score)
    assert torch.equal(stored(NEW).p_value, direct(NEW).p_value)
    with pytest.raises(InvalidInput, match="another classifier"):
        Guard(Classifier(tiny_network(3)), NERO()).fit(training)


def test_images_known_by_other_hashes_are_warned_of(pictures: Path, classifier: Classifier) -> None:
    guard = Guard(classifier, MSP()).fit(pictures / "train")
    with pytest.warns(NeroliWarning, match="hash of the file, calibration images of the tensor"):
        guard.calibrate(colour_loader(90, 2))


def test_what_is_no_classifier_or_detector_is_refused(classifier: Classifier) -> None:
    with pytest.raises(InvalidInput, match=r"Guard\(Classifier\(model\)"):
        Guard(classifier.model, NERO())  # type: ignore[arg-type]
    for wrong in (NERO, "nero"):
        with pytest.raises(InvalidInput, match="detector object"):
            Guard(classifier, wrong)  # type: ignore[arg-type]


def test_classes_too_small_for_their_own_threshold_are_named(classifier: Classifier) -> None:
    images, labels = colour_tensors(160, 2)
    few_red = images[(labels != 2) | (torch.arange(160) < 30)]
    guard = Guard(classifier, MSP()).fit(colour_loader(90, 1))
    with pytest.warns(NeroliWarning, match="1 of 3 classes.*fewer than 45.*: red"):
        guard.calibrate([few_red], per_class=True)


def test_folders_can_be_fitted_on_directly(pictures: Path, classifier: Classifier) -> None:
    guard = Guard(classifier, NERO()).fit(pictures / "train").calibrate(pictures / "calibration")
    assert guard.training is not None
    assert guard.training.accuracy == 1.0
    batches = list(guard.stream(pictures / "new", batch_size=7))
    streamed = torch.cat([batch.verdicts.score for batch in batches])
    assert [name for batch in batches for name in batch.names] == sorted(
        path.name for path in (pictures / "new").iterdir()
    )
    paths = sorted((pictures / "new").iterdir())
    torch.testing.assert_close(streamed, guard(paths).score)


def test_unreadable_training_images_are_counted_and_listed(
    pictures: Path, classifier: Classifier, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "train", tmp_path / "train")
    (tmp_path / "train" / "red" / "bad.png").write_bytes(b"")
    guard = Guard(classifier, MSP())
    with pytest.warns(
        NeroliWarning, match="1 training images could not be read.*'red/bad.png', is empty"
    ):
        guard.fit(tmp_path / "train")
    assert [f.name for f in guard.unreadable] == ["red/bad.png"]
    assert guard.training is not None
    assert (guard.training.images, guard.training.unreadable) == (120, 1)


def test_a_random_network_can_be_guarded_too() -> None:
    model = tiny_network()
    images = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    guard = Guard(Classifier(model), Energy())
    guard.fit([images[:100]]).calibrate([images[100:]])
    assert len(guard(images[:3])) == 3
    assert guard.classifier.preprocessing is None
    guard.classifier.preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    assert len(guard(np.zeros((2, 8, 8, 3), np.uint8))) == 2


def test_a_loaded_guard_expects_the_size_it_was_fitted_on(guard: Guard, tmp_path: Path) -> None:
    guard.save(tmp_path / "guard")
    loaded = Guard.load(tmp_path / "guard", trained_colour_network())
    loaded(torch.zeros(1, 3, 9, 9))  # a tensor is the user's own affair
    write_pictures(tmp_path / "new", 5, seed=3, by_class=False)
    Image.new("RGB", (9, 9)).save(tmp_path / "new" / "0-odd.png")
    (batch,) = loaded.stream(tmp_path / "new")
    assert [failure.name for failure in batch.failures] == ["0-odd.png"]
    assert len(batch.verdicts) == 5
