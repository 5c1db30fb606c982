"""``neroli store``, and stores where images are asked for, as a user runs them."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from neroli import ActivationStore, Guard
from neroli.cli import app
from neroli.data.opening import open_images
from neroli.errors import ArtefactError
from neroli.store_files import shard_path
from networks import trained_colour_network

NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
MODEL = ["--model", "networks:colour_network", "--weights"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fit_on_images(pictures: Path, out: Path, *more: object) -> Result:
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration", *NORMALISE]
    return run("fit", *MODEL, pictures / "weights.safetensors", *data, "--out", out, *more)


@pytest.fixture(scope="module")
def fitted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a guard/ fitted on images, and the store/ of their activations."""
    root = tmp_path_factory.mktemp("fitted")
    result = fit_on_images(pictures, root / "guard", "--store", root / "store")
    assert result.exit_code == 0, result.stderr
    return root


def fit_on_stores(fitted: Path, pictures: Path, out: Path, *more: object) -> Result:
    data = ["--train", fitted / "store/training", "--calibration", fitted / "store/calibration"]
    return run("fit", *MODEL, pictures / "weights.safetensors", *data, "--out", out, *more)


def test_a_guard_is_fitted_on_stores_alone(fitted: Path, pictures: Path, tmp_path: Path) -> None:
    result = fit_on_stores(fitted, pictures, tmp_path / "g", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["training_images"], facts["training_accuracy"]) == (120, 1.0)
    one, other = (
        Guard.load(folder, trained_colour_network()).manifest()
        for folder in (fitted / "guard", tmp_path / "g")
    )
    assert one.classifier == other.classifier
    assert one.calibration == other.calibration
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]
    assert (fitted / "store/training/store.json").exists()


def test_what_an_interrupted_run_left_is_not_deleted_when_it_is_given(
    fitted: Path, pictures: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "g.partial" / "training"
    shutil.copytree(fitted / "store/training", kept)
    data = ["--train", kept, "--calibration", pictures / "calibration", "--out", tmp_path / "g"]
    result = run("fit", *MODEL, pictures / "weights.safetensors", *data)
    assert result.exit_code == 0, result.stderr
    assert len(ActivationStore(kept)) == 120


def test_a_store_is_scored_as_its_images_are(fitted: Path, pictures: Path, tmp_path: Path) -> None:
    for images, out in (
        (pictures / "calibration", "images.csv"),
        (fitted / "store/calibration", "store.csv"),
    ):
        result = run("score", fitted / "guard", images, "--out", tmp_path / out)
        assert result.exit_code == 0, result.stderr
    one, other = (
        list(csv.DictReader((tmp_path / name).read_text().splitlines()))
        for name in ("images.csv", "store.csv")
    )
    assert [row["id"] for row in one] == [row["id"] for row in other]
    assert [row["predicted_name"] for row in one] == [row["predicted_name"] for row in other]
    assert [float(row["score"]) for row in one] == pytest.approx(
        [float(row["score"]) for row in other], rel=1e-5, abs=1e-6
    )
    assert {row["name"] for row in other} == {""}


def test_options_that_need_the_images_are_refused(
    fitted: Path, pictures: Path, tmp_path: Path
) -> None:
    for options in (("--keep-examples", 3), ("--class-map", "classes.json")):
        result = fit_on_stores(fitted, pictures, tmp_path / "g", *options)
        assert result.exit_code == 1
        assert f"{options[0]} needs the images" in result.stderr
    result = fit_on_stores(fitted, pictures, tmp_path / "g", "--mean", "0,0,0", "--std", "1,1,1")
    assert result.exit_code == 1
    assert "another preprocessing" in result.stderr
    result = fit_on_stores(fitted, pictures, tmp_path / "g", "--resize", "9x9")
    assert result.exit_code == 1
    assert "extracted with another preprocessing (mean 0.5 0.5 0.5, std" in result.stderr
    assert "than this classifier's (resize 9x9, mean 0.5 0.5 0.5, std" in result.stderr
    result = fit_on_stores(
        fitted, pictures, tmp_path / "g", "--detector", "nac_ue", "--set", "layers=0", "--set",
        "bins=[50,50]", "--set", "full=[10,10]", "--set", "alpha=[1,1]",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "lacks '0" in result.stderr
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    "option", ["--store kept", "--store-dtype float16", "--engine ray"], ids=lambda o: o.split()[0]
)
def test_options_of_extraction_are_refused_where_nothing_is_extracted(
    fitted: Path, pictures: Path, tmp_path: Path, option: str
) -> None:
    if "ray" in option and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")  # not imported: it would fix its address too early
    result = fit_on_stores(fitted, pictures, tmp_path / "g", *option.split())
    assert result.exit_code == 1
    named = option if "ray" in option else option.split()[0]
    assert f"{named} is for activations yet to be extracted" in result.stderr
    assert not (tmp_path / "g").exists()


def test_what_is_extracted_beside_a_store_is_kept(
    fitted: Path, pictures: Path, tmp_path: Path
) -> None:
    data = ["--train", fitted / "store/training", "--calibration", pictures / "calibration"]
    more = ["--out", tmp_path / "g", "--store", tmp_path / "kept"]
    result = run("fit", *MODEL, pictures / "weights.safetensors", *data, *more)
    assert result.exit_code == 0, result.stderr
    assert len(ActivationStore(tmp_path / "kept/calibration")) == 60


def test_float16_is_an_option_of_fit(pictures: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    more = ("--store", kept, "--store-dtype", "float16")
    assert fit_on_images(pictures, tmp_path / "g", *more).exit_code == 0
    assert ActivationStore(kept / "training").columns()["features"][0] == "F16"
    result = fit_on_images(pictures, tmp_path / "g", "--store-dtype", "int4")
    assert result.exit_code == 1
    assert "--store-dtype float16" in result.stderr and "'int4'" in result.stderr


def test_inspect_says_what_a_store_is(fitted: Path) -> None:
    text = run("store", "inspect", fitted / "store/training").stdout
    for part in ("complete", "120, and 0 unreadable", "16 features to 3 classes", "as  float32"):
        assert part in text
    assert "features F32" in text
    size = sum(file.stat().st_size for file in (fitted / "store/training").iterdir())
    assert f"{size / 1000:.1f} kB in 1 shard\n" in text
    facts = json.loads(run("store", "inspect", fitted / "store/training", "--json").stdout)
    assert facts["columns"]["logits"] == {"dtype": "F32", "shape": [3]}
    assert facts["origin"]["class_names"] == ["blue", "green", "red"]


def test_a_surplus_shard_is_said_and_goes_when_the_fit_is_run_again(
    fitted: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(fitted / "store", tmp_path / "store")
    store = tmp_path / "store/training"
    shutil.copy(shard_path(store, 0), shard_path(store, 1))
    assert (
        "damaged: the number of shards is 2 instead of 1" in run("store", "inspect", store).stdout
    )
    assert "whole shards is 2 instead of 1" in run("store", "verify", store).stdout
    assert fit_on_images(pictures, tmp_path / "g", "--store", store.parent).exit_code == 0
    assert len(ActivationStore(store)) == 120


def test_verify_finds_a_changed_byte(fitted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(fitted / "store/training", store)
    result = run("store", "verify", store)
    assert result.exit_code == 0
    assert "is sound: 120 images." in result.stdout
    content = bytearray(shard_path(store, 0).read_bytes())
    content[-1] ^= 1
    shard_path(store, 0).write_bytes(content)
    result = run("store", "verify", store, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["sound"] is False
    (problem,) = facts["problems"]
    assert problem == "shard-000000.safetensors: bytes have changed since they were written."


def test_merge_joins_and_never_replaces_another_store(fitted: Path, tmp_path: Path) -> None:
    training, calibration = fitted / "store/training", fitted / "store/calibration"
    result = run("store", "merge", calibration, calibration, "--out", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 120
    assert "60 images have the content of an earlier one" in (
        run("store", "verify", tmp_path / "m").stdout
    )
    again = run("store", "merge", calibration, calibration, "--out", tmp_path / "m")
    assert again.exit_code == 0
    result = run("store", "merge", calibration, "--out", tmp_path / "m")
    assert result.exit_code == 1
    assert "holds another activation store" in result.stderr
    result = run("store", "merge", training, calibration, "--out", tmp_path / "n")
    assert result.exit_code == 1
    assert "differ in the column 'labels' (I64 [] and absent)" in result.stderr
    pruning = ("--drop", "labels")
    assert f"`neroli store prune {' '.join(pruning)}`" in result.stderr
    assert run("store", "prune", training, *pruning, "--out", tmp_path / "p").exit_code == 0
    result = run("store", "merge", tmp_path / "p", calibration, "--out", tmp_path / "n")
    assert result.exit_code == 0, result.stderr


def test_prune_writes_a_smaller_store(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    options = ("--drop", "labels", "--store-dtype", "float16")
    result = run("store", "prune", fitted / "store/training", "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["size"] < facts["bytes_before"]
    assert "labels" not in facts["columns"]
    result = run("store", "prune", fitted / "store/training", "--out", out)
    assert result.exit_code == 1
    assert "nothing to prune" in result.stderr
    result = run("store", "prune", fitted / "store/calibration", "--out", out, "--drop-copies")
    assert result.exit_code == 1
    assert "holds another activation store" in result.stderr


def test_no_store_is_written_inside_a_store(fitted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(fitted / "store/training", store)
    (tmp_path / "link").symlink_to(store)
    before = sorted(tmp_path.rglob("*"))
    for command in (("merge", store), ("prune", store, "--drop", "labels")):
        for out in (store / "y", tmp_path / "link" / "deep" / "y"):
            result = run("store", *command, "--out", out)
            assert result.exit_code == 1
            assert f"lies inside the activation store {str(store)!r}" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_are_no_stores_are_one_sentence(pictures: Path, tmp_path: Path) -> None:
    for command in ("inspect", "verify"):
        result = run("store", command, pictures, "--json")
        assert result.exit_code == 1
        assert "no activation store" in json.loads(result.stdout)["message"]
    result = run("store", "merge", pictures, "--out", tmp_path / "m")
    assert result.exit_code == 1
    assert "no activation store" in result.stderr


def test_folders_that_are_nearly_stores_are_not_taken_for_images(
    fitted: Path, pictures: Path, tmp_path: Path
) -> None:
    def refusal(train: Path) -> str:
        data = ["--train", train, "--calibration", pictures / "calibration", *NORMALISE]
        weights = pictures / "weights.safetensors"
        result = run("fit", *MODEL, weights, *data, "--out", tmp_path / "g")
        assert result.exit_code == 1
        return result.stderr

    for missing in ("store.json", "head.safetensors"):
        store = tmp_path / f"without-{missing}"
        shutil.copytree(fitted / "store/training", store)
        (store / missing).unlink()
        said = refusal(store)
        assert f"is an incomplete or damaged activation store, without {missing}:" in said
    said = refusal(fitted / "store")
    assert "holds activation stores and is none itself" in said
    assert f"{str(fitted / 'store/training')!r}" in said
    result = run("store", "inspect", tmp_path / "without-store.json")
    assert "incomplete or damaged activation store, without store.json" in result.stderr
    with pytest.raises(ArtefactError, match="images themselves are needed"):
        open_images(fitted / "store/training")
