"""Which detectors take part in a benchmark."""

from __future__ import annotations

import pytest

from neroli.benchmark.entries import entries_of, needed
from neroli.detectors import catalogue, create
from neroli.errors import InvalidInput
from neroli.taps import NOTHING

STAGES = ("layer1", "layer2", "layer3")


def test_the_groups_hold_one_another_and_together_every_detector() -> None:
    head, one_pass, every = (
        {entry.label for entry in entries_of(group, (), STAGES)[0]}
        for group in ("head", "one-pass", "all")
    )
    assert head < one_pass < every
    assert "gram" in one_pass - head
    assert "odin" in every - one_pass
    assert needed([create(name) for name in head]) == NOTHING
    failed = {failure.label for failure in entries_of("all", (), STAGES)[1]}
    assert every | failed == set(catalogue.own_names())


def test_detectors_of_layers_take_those_of_the_model_if_it_has_other_than_the_usual_ones() -> None:
    (entry,), _ = entries_of(["rank_feat"], (), ("layer1", "layer2", "layer3", "layer4"))
    assert entry.detector.hyperparameters()["layers"] == ("layer4", "layer3")
    (entry,), _ = entries_of(["gram"], (), STAGES)
    assert entry.detector.hyperparameters()["layers"] == STAGES
    (entry,), _ = entries_of([], [("mine", "gram", {"layers": ("layer3",)})], STAGES)
    assert entry.detector.hyperparameters()["layers"] == ("layer3",)


def test_one_that_cannot_be_made_for_the_model_is_left_out_of_a_group_with_its_reason() -> None:
    entries, failures = entries_of("all", (), ("block1", "block2"))
    assert "nac_ue" not in {entry.label for entry in entries}
    (failure,) = (each for each in failures if each.label == "nac_ue")
    assert "bins must be 3 numbers" in failure.reason
    with pytest.raises(InvalidInput, match="bins must be 3 numbers"):
        entries_of(["nac_ue"], (), ("block1", "block2"))


def test_settings_add_a_row_or_take_the_place_of_the_defaults() -> None:
    settings = [("knn", "knn", {"k": 5}), ("line, published", "line", {"clip": 1.0})]
    entries, _ = entries_of("head", settings)
    by_label = {entry.label: entry.detector for entry in entries}
    assert by_label["knn"].hyperparameters()["k"] == 5
    assert by_label["line"].hyperparameters()["clip"] != 1.0
    assert by_label["line, published"].hyperparameters()["clip"] == 1.0


@pytest.mark.parametrize(
    ("chosen", "settings", "message"),
    [
        (["nero", "nero"], (), "'nero' is named twice"),
        (["nerro"], (), "did you mean 'nero'"),
        ([], (), "No detector is chosen"),
        (["nero"], [("a", "knn", {}), ("a", "line", {})], "Two detectors are labelled 'a'"),
        (["nero"], [("a", "knn", {"kk": 1})], "no hyper-parameter 'kk'"),
    ],
)
def test_wrong_choices_are_refused(chosen: list[str], settings: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        entries_of(chosen, settings)  # type: ignore[arg-type]
