"""A whole benchmark on small pictures: its figures, its files, and going on after a stop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli import Activations, Classifier, Guard, detectors
from neroli.benchmark.images import BenchmarkImages, benchmark_images
from neroli.benchmark.results import Results
from neroli.benchmark.runner import Options, run
from neroli.benchmark.schema import Suite
from neroli.benchmark.suite import own_suite
from neroli.detectors import KNN, Detector, create
from neroli.errors import ArtefactError, InvalidInput
from networks import COLOURS, trained_colour_network

DETECTORS = ("nero", "line", "msp", "knn", "temperature_scaled_msp", "gram")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ID colour pictures in train, test and calibration; noise and stripes as OOD."""
    root = tmp_path_factory.mktemp("benchmark")
    for seed, (part, count) in enumerate((("train", 120), ("calibration", 80), ("test", 60))):
        write_pictures(root / "id" / part, count, seed=seed)
    draw = np.random.default_rng(0)
    size = np.asarray(Image.open(next((root / "id" / "test").rglob("*.png")))).shape
    for name in ("noise", "stripes"):
        (root / name).mkdir()
        for number in range(25):
            pixels = draw.integers(0, 256, size, dtype=np.uint8)
            if name == "stripes":
                pixels[:] = pixels[:1]
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def suite(folders: Path) -> Suite:
    ood = [("near", folders / "noise"), ("far", folders / "stripes")]
    model = "networks:colour_network"
    return own_suite(model, None, folders / "id", ood, layers=["0", "2"], detectors=DETECTORS)


@pytest.fixture
def images(suite: Suite) -> BenchmarkImages:
    return benchmark_images(suite)


class Counting(torch.nn.Sequential):
    """The colour network, which counts the images that go through it."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def counting() -> Classifier:
    model = Counting(*trained_colour_network()).eval()
    return Classifier(model, preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS)


@pytest.fixture(scope="module")
def finished(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    ood = [("near", folders / "noise"), ("far", folders / "stripes")]
    suite = own_suite(
        "networks:colour_network", None, folders / "id", ood, layers=["0", "2"], detectors=DETECTORS
    )
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    out = tmp_path_factory.mktemp("out") / "bench"
    options = Options(resamples=50, gallery=2, command="neroli bench ...")
    return out, run(suite, benchmark_images(suite), classifier, out, options)


def scores_of(guard: Guard, folder: Path) -> np.ndarray:
    return guard(sorted(folder.rglob("*.png"))).score.numpy()


def test_its_figures_are_those_of_guards_fitted_one_by_one(
    finished: tuple[Path, Results], folders: Path, classifier: Classifier
) -> None:
    _, results = finished
    for row in results.rows:
        guard = Guard(classifier, create(row.detector, **row.hyperparameters))
        guard.fit(folders / "id" / "train")
        guard.calibrate(folders / "id" / "calibration", 0.05, guarantee="average")
        inside = scores_of(guard, folders / "id" / "test")
        for name in ("noise", "stripes"):
            outside = scores_of(guard, folders / name)
            is_ood = np.repeat([0, 1], [len(inside), len(outside)])
            expected = roc_auc_score(is_ood, np.concatenate([inside, outside]))
            assert row.sets[name].auroc.value == pytest.approx(expected, abs=1e-6)
            share = float((outside > guard.calibration.threshold).mean())
            assert row.sets[name].flagged == pytest.approx(share, abs=1e-6)
        share = float((inside > guard.calibration.threshold).mean())
        assert row.flagged_id == pytest.approx(share, abs=1e-6)


def test_means_and_the_order_of_rows_follow_from_the_sets(finished: tuple[Path, Results]) -> None:
    _, results = finished
    assert {row.label for row in results.rows} == set(DETECTORS)
    for row in results.rows:
        values = [row.sets[name].auroc.value for name in ("noise", "stripes")]
        assert row.mean.auroc.value == pytest.approx(np.mean(values))
        assert row.near is not None
        assert row.near.auroc.value == values[0]
        assert row.mean.auroc.low <= row.mean.auroc.value <= row.mean.auroc.high
    means = [row.mean.auroc.value for row in results.rows]
    assert means == sorted(means, reverse=True)
    best, *others = results.rows
    assert best.behind_best is None
    for row in others:
        assert row.behind_best is not None
        assert row.behind_best.value == pytest.approx(means[0] - row.mean.auroc.value)


def test_it_writes_what_it_found(finished: tuple[Path, Results]) -> None:
    out, results = finished
    read = Results.model_validate_json((out / "results.json").read_text())
    assert read.model_dump_json() == results.model_dump_json()
    page = (out / "report.html").read_text()
    assert all(label in page for label in DETECTORS)
    assert page.count("data:image") >= 3 * 2 * 2 * 3  # sets, ends, images, pictures of each
    assert {facts.name: facts.images for facts in results.sets} == {
        "train": 120,
        "calibration": 80,
        "test": 60,
        "noise": 25,
        "stripes": 25,
    }
    assert results.facts_of("test").accuracy == 1.0
    assert results.calibrated_on == "the calibration images"
    assert not results.duplicates


def test_each_image_goes_through_the_network_once(
    suite: Suite, images: BenchmarkImages, counting: Classifier, tmp_path: Path
) -> None:
    options = Options(resamples=5, gallery=0)
    first = run(suite, images, counting, tmp_path / "out", options)
    total = 120 + 80 + 60 + 25 + 25
    few = counting.model.seen - total
    assert 0 < few < 60  # to find the head, and whether each detector can be used
    assert first.forward.images == total
    before = counting.model.seen
    again = run(suite, images, counting, tmp_path / "out", options)
    assert counting.model.seen - before < 60
    assert again.forward.images == 0
    assert [row.sets for row in again.rows] == [row.sets for row in first.rows]


def test_other_detectors_use_what_is_stored(
    suite: Suite, images: BenchmarkImages, counting: Classifier, tmp_path: Path
) -> None:
    run(suite, images, counting, tmp_path / "out", Options(resamples=5, gallery=0))
    chosen = Options(detectors=("energy", "vim"), resamples=5, gallery=0)
    results = run(suite, images, counting, tmp_path / "out", chosen)
    assert {row.label for row in results.rows} == {"energy", "vim"}
    assert results.forward.images == 0


def test_interrupted_it_goes_on_where_it_stopped(
    suite: Suite,
    images: BenchmarkImages,
    counting: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = Options(resamples=5, gallery=0, batch_size=16)
    whole = run(suite, images, counting, tmp_path / "whole", options)
    seen = 0

    def stop(module: torch.nn.Module, given: object, result: Tensor) -> None:
        nonlocal seen
        seen += len(result)
        if seen > 230:  # in the middle of the test images
            raise KeyboardInterrupt

    hook = counting.model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(suite, images, counting, tmp_path / "out", options)
    hook.remove()
    before = counting.model.seen
    resumed = run(suite, images, counting, tmp_path / "out", options)
    assert counting.model.seen - before < 200
    assert [row.sets for row in resumed.rows] == [row.sets for row in whole.rows]


@dataclass(eq=False)
class _Unlucky(Detector):
    name: ClassVar[str] = "unlucky"
    measures: ClassVar[str] = "nothing"

    def compute(self, batch: Activations) -> Tensor:
        raise RuntimeError("no luck")


def test_detectors_that_fail_are_reported_and_stop_no_other(
    suite: Suite,
    images: BenchmarkImages,
    classifier: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(detectors._DETECTORS, _Unlucky.name, _Unlucky)  # here alone
    chosen = ("unlucky", "msp", "rank_feat", "nap")
    options = Options(detectors=chosen, resamples=5, gallery=0)
    results = run(suite, images, classifier, tmp_path / "out", options)
    failed = {failure.label: failure.reason for failure in results.failures}
    assert "msp" in {row.label for row in results.rows}
    assert failed["unlucky"] == "RuntimeError: no luck"
    assert {row.label for row in results.rows} | failed.keys() == set(chosen)
    assert "no luck" in (tmp_path / "out" / "report.html").read_text()
    only = Options(detectors=("unlucky",), resamples=5, gallery=0)
    with pytest.raises(InvalidInput, match="no luck"):
        run(suite, images, classifier, tmp_path / "out", only)


def test_images_in_two_sets_are_counted(
    folders: Path, classifier: Classifier, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    some = [*sorted((folders / "id" / "test").rglob("*.png"))[:3], *(folders / "noise").iterdir()]
    for number, path in enumerate(some):
        (mixed / f"{number}.png").write_bytes(path.read_bytes())
    suite = own_suite("", None, folders / "id", [("near", mixed)], detectors=["msp"])
    options = Options(resamples=5, gallery=0)
    results = run(suite, benchmark_images(suite), classifier, tmp_path / "out", options)
    (found,) = results.duplicates
    assert (found.first, found.second, found.images) == ("test", "mixed", 3)


def test_without_calibration_images_each_half_of_the_test_images_sets_the_others_threshold(
    folders: Path, classifier: Classifier, tmp_path: Path
) -> None:
    inside = tmp_path / "id"
    inside.mkdir()
    for part in ("train", "test"):
        (inside / part).symlink_to(folders / "id" / part)
    ood = [("near", folders / "noise")]
    suite = own_suite("", None, inside, ood, detectors=["energy", "temperature_scaled_msp"])
    options = Options(resamples=5, gallery=1)
    results = run(suite, benchmark_images(suite), classifier, tmp_path / "out", options)
    assert "each half" in results.calibrated_on
    for row in results.rows:
        assert row.flagged_id is not None
        assert 0 <= row.flagged_id < 0.2


def test_the_search_adds_a_row_beside_the_published_one(
    folders: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ood = [("near", folders / "noise")]
    suite = own_suite("", None, folders / "id", ood, detectors=["knn"])
    monkeypatch.setattr("neroli.benchmark.tuning.GRIDS", {"knn": ({}, {"k": 2})})
    monkeypatch.setattr("neroli.benchmark.searching.GRIDS", {"knn": ({}, {"k": 2})})
    monkeypatch.setattr("neroli.benchmark.tuning.MARGIN", -1.0)
    monkeypatch.setattr("neroli.benchmark.tuning.ERRORS", -1e9)
    options = Options(resamples=5, gallery=0, tune=True)
    results = run(suite, benchmark_images(suite), classifier, tmp_path / "out", options)
    (tuning,) = results.tuning
    assert [trial.settings for trial in tuning.trials] == [{}, {"k": 2}]
    rows = {row.label: row for row in results.rows}
    assert rows["knn"].hyperparameters["k"] == KNN().k
    if tuning.chosen:
        assert rows["knn, tuned"].hyperparameters["k"] == 2
        assert rows["knn, tuned"].tuned


def test_sets_whose_names_are_alike_are_kept_apart(
    folders: Path, classifier: Classifier, tmp_path: Path
) -> None:
    draw = np.random.default_rng(1)
    (tmp_path / "dark").mkdir()
    size = np.asarray(Image.open(next((folders / "noise").iterdir()))).shape
    for number in range(20):
        Image.fromarray(draw.integers(0, 9, size, np.uint8)).save(tmp_path / f"dark/{number}.png")
    suite = own_suite("", None, folders / "id", [("near", folders / "noise")], detectors=["msp"])
    sets = {"a/b": folders / "noise", "a-b": tmp_path / "dark", "A/B": folders / "stripes"}
    given = suite.model_dump(exclude_unset=True) | {
        "ood": [{"name": n, "nearness": "far", "images": str(p)} for n, p in sets.items()]
    }
    alike, options = Suite.model_validate(given), Options(resamples=5, gallery=0)
    results = run(alike, benchmark_images(alike), classifier, tmp_path / "out", options)
    assert {facts.name: facts.images for facts in results.ood_sets} == {
        "a/b": 25,
        "a-b": 20,
        "A/B": 25,
    }
    stores = [path.parent.name for path in (tmp_path / "out").rglob("store.json")]
    assert len({name.lower() for name in stores}) == 6


def test_a_damaged_cache_is_made_anew(
    suite: Suite, images: BenchmarkImages, classifier: Classifier, tmp_path: Path
) -> None:
    options = Options(detectors=("msp", "knn"), resamples=5, gallery=0)
    first = run(suite, images, classifier, tmp_path / "out", options)
    for path in (tmp_path / "out").rglob("*"):
        if path.name == "store.json" or path.suffix == ".safetensors":
            path.write_bytes(path.read_bytes()[:90])
    again = run(suite, images, classifier, tmp_path / "out", options)
    assert [row.sets for row in again.rows] == [row.sets for row in first.rows]


def test_of_few_detectors_only_these_are_tuned(
    suite: Suite, images: BenchmarkImages, classifier: Classifier, tmp_path: Path
) -> None:
    options = Options(detectors=("msp", "dice"), resamples=5, gallery=0, tune=True)
    results = run(suite, images, classifier, tmp_path / "out", options)
    assert [tuning.detector for tuning in results.tuning] == ["dice"]
    assert {row.detector for row in results.rows} == {"msp", "dice"}
    none = Options(detectors=("msp",), resamples=5, gallery=0, tune=True)
    with pytest.raises(InvalidInput, match="None of the detectors chosen can be tuned"):
        run(suite, images, classifier, tmp_path / "out", none)


def test_a_folder_of_other_files_is_left_alone(
    suite: Suite, images: BenchmarkImages, classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds other files"):
        run(suite, images, classifier, tmp_path, Options(resamples=5))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_limit_takes_images_evenly_from_every_set(
    suite: Suite, images: BenchmarkImages, classifier: Classifier, tmp_path: Path
) -> None:
    options = Options(detectors=("msp",), resamples=5, gallery=0, limit=24)
    results = run(suite, images, classifier, tmp_path / "out", options)
    assert {facts.images for facts in results.sets} == {24}
    assert results.facts_of("test").accuracy == 1.0
