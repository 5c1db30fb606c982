"""Matching labels to classes."""

import json
from pathlib import Path

import pytest

from neroli.data.classes import match_classes
from neroli.errors import ClassMapError

LABELS = ["a", "b", "c"]


def test_by_the_models_class_names() -> None:
    found = match_classes(LABELS, 4, ["c", "d", "b", "a"])
    assert found.classes == {"a": 3, "b": 2, "c": 0}
    assert found.rule == "by name"
    assert found.names(4) == ["c", "1", "b", "a"]


def test_in_sorted_order_when_there_are_as_many_as_classes() -> None:
    for names in (None, ["x", "y", "z"]):
        found = match_classes(LABELS, 3, names)
        assert found.classes == {"a": 0, "b": 1, "c": 2}
        assert found.rule == "in sorted order"


def test_the_class_map_overrides(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"a": 2, "b": 1, "c": "x", "unused": 0}))
    assert match_classes(LABELS, 3, ["x", "b", "a"], path).classes == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 0, "b": 1}', "Label 'c' is not in the class map"),
        ('{"a": 0, "b": 1, "c": 3}', "'c' to 3, which is neither"),
        ('{"a": 0, "b": 1, "c": true}', "'c' to True"),
        ('{"a": 0, "b": 1, "c": "cat"}', "'c' to 'cat'"),
        ("[1, 2]", "must be a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_class_map_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(ClassMapError, match=message):
        match_classes(LABELS, 3, None, path)


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassMapError, match="3 labels and the model 5 classes"):
        match_classes(LABELS, 5)
    with pytest.raises(ClassMapError, match="Label 'c' is not one of the model's classes"):
        match_classes(LABELS, 3, ["a", "b", "d"])
    with pytest.raises(ClassMapError, match="Cannot read the class map"):
        match_classes(LABELS, 3, None, tmp_path / "gone.json")


def test_labels_that_are_class_indices_are_taken_by_number_but_folders_are_not() -> None:
    found = match_classes(["0", "10", "2"], 11)
    assert found.classes == {"0": 0, "10": 10, "2": 2}
    assert found.rule == "by number"
    folders = match_classes(["0", "10", "2"], 3, noun="folder")
    assert folders.classes == {"0": 0, "10": 1, "2": 2}
    with pytest.raises(ClassMapError, match="have 2 labels and the model 3 classes"):
        match_classes(["0", "3"], 3)
