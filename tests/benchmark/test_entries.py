"""The detectors that take part in a benchmark."""

from __future__ import annotations

from typing import Any

from neroli.benchmark.entries import entries_of, needed
from neroli.benchmark.schema import DetectorRow
from neroli.detectors import create


def row(name: str, label: str | None = None, **settings: Any) -> DetectorRow:
    return DetectorRow(name=name, label=label, settings=settings)


def test_rows_become_detectors_with_their_labels_and_settings() -> None:
    entries, failures = entries_of([row("knn", k=5), row("line", "line, published", clip=1.0)])
    assert [entry.label for entry in entries] == ["knn", "line, published"]
    assert entries[0].detector.hyperparameters() == create("knn", k=5).hyperparameters()
    assert entries[1].detector.hyperparameters()["clip"] == 1.0
    assert not failures


def test_detectors_of_layers_take_those_of_the_model_if_it_has_other_than_the_usual_ones() -> None:
    ((entry,), _) = entries_of([row("gram")], ("block1", "block2"))
    assert entry.detector.hyperparameters()["layers"] == ("block1", "block2")
    ((entry,), _) = entries_of([row("rank_feat")], ("layer1", "layer2", "layer3", "layer4"))
    assert entry.detector.hyperparameters()["layers"] == ("layer4", "layer3")
    ((entry,), _) = entries_of([row("gram", layers=("block2",))], ("block1", "block2"))
    assert entry.detector.hyperparameters()["layers"] == ("block2",)


def test_one_that_cannot_be_made_for_the_model_fails_with_its_reason() -> None:
    entries, (failure,) = entries_of([row("nero"), row("nac_ue")], ("block1", "block2"))
    assert [entry.label for entry in entries] == ["nero"]
    assert failure.label == "nac_ue"
    assert "bins must be 3 numbers" in failure.reason


def test_what_several_need_is_what_each_needs() -> None:
    entries, _ = entries_of([row("gram", layers=("a",)), row("nap"), row("msp")])
    requires = needed(entries)
    assert requires.prepool
    assert [tap.layer for tap in requires.taps] == ["a"]


def test_other_settings_are_another_identity() -> None:
    (one, same, other), _ = entries_of([row("knn", k=5), row("knn", "b", k=5), row("knn", "c")])
    assert one.identity == same.identity != other.identity
