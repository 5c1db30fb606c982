"""Explanations in words and for programs, of one image and of many."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import explanations as given
from neroli import Classifier, Guard
from neroli.detectors import KNN, NERO
from neroli.errors import ArtefactError, InvalidInput, NotCalibrated, NotFitted, UnreadableImage
from neroli.explain import explain, wording
from networks import colour_images, colour_loader, colour_tensors, trained_colour_network


def test_the_summary_is_two_plain_sentences() -> None:
    assert given.explanation().summary == (
        "Flagged as out of distribution: it is predicted polyp with probability 0.81, but its "
        "score is above the threshold, which allows at most 5% false alarms (at most about 1.2% of "
        "in-distribution images score as high). Neurons 0 and 1 make up 100% of what differs "
        "from the usual for polyp; 50% of it is evidence weaker than usual (50% lies in neurons "
        "silent here, which no pixel can show), centred in the upper left of the image."
    )


def test_an_image_that_is_not_flagged_says_so_whatever_its_p_value() -> None:
    text = given.explanation(is_ood=False, p_value=0.045, probability=0.999).summary
    assert text.startswith(
        "Not flagged: it is predicted polyp with probability over 0.99, and its score is not above "
        "the threshold, which allows at most 5% false alarms (at most about 4.5% of"
    )


@pytest.mark.parametrize(
    ("evidence", "active", "expected"),
    [
        (
            [0.0, 1.0],
            [True] * 2,
            "100% of it is evidence weaker ",
        ),
        ([3.0, 2.0], [True] * 2, "is evidence stronger than usual"),
        ([0.0, 0.5], [False, True], "(67% lies in neurons silent here, which no"),
        (
            [0.0, 0.0],
            [False] * 2,
            "than usual, all of it in neurons silent here, which no pixel can",
        ),
    ],
)
def test_weaker_stronger_and_silent_evidence_are_told_apart(
    evidence: list[float], active: list[bool], expected: str
) -> None:
    neurons = given.neurons(evidence, [1.0, 1.0], [1.0, 1.0], active)
    text = given.explanation(neurons=neurons).summary
    assert expected in text
    # the map of these explanations shows weaker evidence alone
    assert ("centred" in text) == (any(active) and "weaker" in text)


def test_the_class_compared_with_is_said_where_it_is_another() -> None:
    text = given.explanation(compared_name="cecum").summary
    assert "usual for cecum (not the predicted class, but the one whose usual pattern is" in text


def test_a_class_without_training_images_is_compared_with_all() -> None:
    text = given.explanation(compared_images=0).summary
    assert "usual for all classes (no training image was predicted polyp); 50% of it" in text


def test_the_neurons_that_differ_most_are_named_whatever_they_add_to_the_score() -> None:
    plain = given.neurons([2.0, 0.5, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], None, [True] * 4)
    says = "Neurons 0, 2 and 1 make up 100% of what differs from the usual for polyp; "
    assert says in given.explanation(neurons=plain).summary
    against = given.neurons([2.0, 0.5, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [-1.0, 0, 2, 9], [True] * 4)
    assert says in given.explanation(neurons=against).summary
    one = given.neurons([1.0, 3.0], [1.0, 1.0], None, [True] * 2)
    assert "Neuron 1 makes up 100% of what" in given.explanation(neurons=one).summary


def test_where_no_neuron_differs_that_is_said() -> None:
    usual = given.neurons([1.0, 1.0], [1.0, 1.0], None, [True] * 2)
    text = given.explanation(neurons=usual).summary
    assert text.endswith("No neuron differs from what is usual for polyp.")


@pytest.mark.parametrize("side", [3, 4, 7, 32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_where_the_deviation_is(side: int, sign: float) -> None:
    words = {
        (0, 0): "upper left",
        (0, 1): "upper middle",
        (0, 2): "upper right",
        (1, 0): "middle left",
        (1, 1): "middle",
        (1, 2): "middle right",
        (2, 0): "lower left",
        (2, 1): "lower middle",
        (2, 2): "lower right",
    }
    places = (0, side // 2, side - 1)
    for (row, column), expected in words.items():
        relevance = torch.zeros(side, side)
        relevance[places[row], places[column]] = sign
        neurons = given.neurons([1.0 + sign], [1.0], [1.0], [True])
        deviation = given.heatmap(relevance)
        assert given.explanation(neurons=neurons, deviation=deviation).where == expected
        other = given.neurons([1.0 - sign], [1.0], [1.0], [True])
        assert given.explanation(neurons=other, deviation=deviation).where == ""
    assert wording.place(torch.zeros(side, side)) == ""
    assert wording.place(torch.ones(side, 2 * side)) == "middle"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (1e-5, "less than 0.1%"), (0.0312, "3.1%"), (0.42, "42%"), (0.999, "over 99%")],
)
def test_little_is_not_nothing_and_much_not_everything(share: float, text: str) -> None:
    assert wording.percentage(share) == text


def test_for_programs_it_is_plain_json_with_all_but_pictures(guard: Guard) -> None:
    explanation = guard.explain(colour_tensors(1, 5)[0][0])
    record = json.loads(json.dumps(explanation.to_dict()))
    for name in ("name", "predicted_class", "predicted_name", "probability", "score", "p_value"):
        assert record[name] == getattr(explanation, name)
    for name in ("threshold", "is_ood", "false_alarm_rate", "compared_name", "summary"):
        assert record[name] == getattr(explanation, name)
    assert record["neurons"]["missing_share"] == float(explanation.neurons.missing[0])
    assert {"method", "rules", "reason", "started", "absorbed"} == record["heatmap"].keys()
    assert len(record["neurons"]["top"]) == 10 == len(record["examples"]["of_neurons"])


@pytest.mark.parametrize("detector", [NERO(), KNN()], ids=str)
def test_images_together_and_one_by_one_are_explained_alike(
    classifier: Classifier, detector: NERO | KNN
) -> None:
    guard = Guard(classifier, detector).fit(colour_loader(150, 1), keep_examples=20)
    guard.calibrate(colour_loader(120, 2, labels=False))
    images = colour_tensors(11, 5)[0]
    together = explain(guard, images, top=4)
    assert [explanation.name for explanation in together] == [str(i) for i in range(11)]
    verdicts = guard(images)
    for row, whole in enumerate(together):
        alone = guard.explain(images[row])
        assert (whole.is_ood, whole.predicted_class) == (alone.is_ood, alone.predicted_class)
        assert whole.score == pytest.approx(float(verdicts.score[row]), rel=1e-5)
        assert whole.p_value == float(verdicts.p_value[row])
        for name in ("heatmap", "deviation"):
            maps = [getattr(one, name).relevance for one in (whole, alone)]
            torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(whole.picture, alone.picture)
        assert whole.examples.nearest[0][0] == alone.examples.nearest[0][0]
        assert len(whole.to_dict()["neurons"]["top"]) == 4
        assert np.asarray(whole.neurons.evidence).shape == (1, 16)


def test_what_cannot_be_explained_is_said(guard: Guard, classifier: Classifier) -> None:
    images = colour_tensors(3, 5)[0]
    with pytest.raises(InvalidInput, match="2 names for 3 images"):
        explain(guard, images, ["a", "b"])
    with pytest.raises(InvalidInput, match="top=0"):
        explain(guard, images, top=0)
    with pytest.raises(InvalidInput, match="NaN"):
        explain(guard, images * float("nan"))
    fitted = Guard(classifier, NERO())
    with pytest.raises(NotFitted):
        fitted.explain(images[0])
    with pytest.raises(NotCalibrated):
        fitted.fit(colour_loader(150, 1)).explain(images[0])


def test_files_of_any_colours_are_explained_and_broken_ones_refused(
    guard: Guard, tmp_path: Path
) -> None:
    picture = Image.fromarray(colour_images(1, 5)[0][0])
    for mode in ("CMYK", "L", "P", "RGBA"):
        assert guard.explain(picture.convert(mode)).picture.shape == (8, 8, 3)
    deep = tmp_path / "deep.png"
    Image.new("I;16", (8, 8), 40_000).save(deep)
    assert guard.explain(deep).picture.std() == 0
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff junk")
    for path in (broken, tmp_path / "none.png"):
        with pytest.raises(UnreadableImage, match=path.name):
            guard.explain(path)


def test_what_is_usual_is_saved_bit_by_bit(classifier: Classifier, tmp_path: Path) -> None:
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1), keep_examples=20)
    guard.calibrate(colour_loader(120, 2, labels=False)).save(f"{tmp_path}/guard")
    loaded = Guard.load(f"{tmp_path}/guard", trained_colour_network())
    assert guard.reference is not None and loaded.reference is not None
    assert loaded.reference.state.keys() == guard.reference.state.keys()
    for name, value in guard.reference.state.items():
        assert torch.equal(loaded.reference.state[name], value), name
    image = colour_tensors(1, 5)[0][0]
    assert loaded.explain(image).to_dict() == guard.explain(image).to_dict()


def test_a_guard_of_another_heads_reference_is_refused(guard: Guard) -> None:
    assert guard.reference is not None
    state = dict(guard.reference.state)
    state["mean"] = state["mean"][:, 1:]
    with pytest.raises(ArtefactError, match="not of the guard's head"):
        guard.reference.load_state(state)
