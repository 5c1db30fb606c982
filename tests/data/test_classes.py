"""Matching folders to classes."""

import json
from pathlib import Path

import pytest

from neroli.data.classes import match_folders
from neroli.errors import ClassMapError, InvalidInput


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b", "a", "c", ".hidden"):
        (tmp_path / "images" / name).mkdir(parents=True)
    return tmp_path / "images"


def test_by_the_models_class_names(root: Path) -> None:
    found = match_folders(root, 4, ["c", "d", "b", "a"])
    assert found.classes == {"a": 3, "b": 2, "c": 0}
    assert found.rule == "by name"
    assert found.names(4) == ["c", "1", "b", "a"]


def test_in_sorted_order_when_there_are_as_many_as_classes(root: Path) -> None:
    for names in (None, ["x", "y", "z"]):
        found = match_folders(root, 3, names)
        assert found.classes == {"a": 0, "b": 1, "c": 2}
        assert found.rule == "in sorted order"


def test_the_class_map_overrides(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"a": 2, "b": 1, "c": "x", "unused": 0}))
    assert match_folders(root, 3, ["x", "b", "a"], path).classes == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 0, "b": 1}', "Folder 'c' is not in the class map"),
        ('{"a": 0, "b": 1, "c": 3}', "'c' to 3, which is neither"),
        ('{"a": 0, "b": 1, "c": true}', "'c' to True"),
        ('{"a": 0, "b": 1, "c": "cat"}', "'c' to 'cat'"),
        ("[1, 2]", "must be a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_class_map_is_refused(
    root: Path, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(ClassMapError, match=message):
        match_folders(root, 3, None, path)


def test_what_cannot_be_matched_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassMapError, match="3 subfolders and the model 5 classes"):
        match_folders(root, 5)
    with pytest.raises(ClassMapError, match="Folder 'c' is not one of the model's classes"):
        match_folders(root, 3, ["a", "b", "d"])
    with pytest.raises(ClassMapError, match="Cannot read the class map"):
        match_folders(root, 3, None, tmp_path / "gone.json")
    with pytest.raises(ClassMapError, match="no subfolders"):
        match_folders(root / "a", 3)
    with pytest.raises(InvalidInput, match="not a folder"):
        match_folders(root / "gone", 3)
