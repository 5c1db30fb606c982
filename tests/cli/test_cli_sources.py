"""The commands on images from anywhere and models of any kind."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from click.testing import Result
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from conftest import write_pictures
from neroli.cli import app
from networks import COLOURS, colour_images, trained_colour_network

NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25 0.25 0.25", "--resize", "8x8"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """weights.safetensors, and 180 pictures of 30 patients: by class, in a table, tar and array."""
    root = tmp_path_factory.mktemp("sources")
    save_file(trained_colour_network().state_dict(), root / "weights.safetensors")
    write_pictures(root / "images", 180, seed=1)
    paths = sorted((root / "images").rglob("*.png"), key=lambda path: path.name)
    rows = [
        f"images/{path.parent.name}/{path.name},{path.parent.name},P{number % 30:02}"
        for number, path in enumerate(paths)
    ]
    (root / "all.csv").write_text("\n".join(["path,label,patient", *rows]))
    with tarfile.open(root / "images.tar", "w") as archive:
        archive.add(root / "images", "images")
    pictures, labels = colour_images(180, seed=1)
    np.savez(root / "train.npz", images=pictures[:120], labels=labels[:120])
    np.save(root / "held.npy", pictures[120:])
    return root


def fit(folder: Path, train: str, calibration: str, out: Path, *more: object) -> Result:
    model = ["--model", "networks:colour_network", "--weights", folder / "weights.safetensors"]
    data = ["--train", folder / train, "--calibration", folder / calibration]
    return run("fit", *model, *data, *NORMALISE, "--out", out, *more)


@pytest.fixture(scope="module")
def guard(folder: Path) -> Path:
    assert fit(folder, "train.npz", "held.npy", folder / "guard").exit_code == 0
    return folder / "guard"


def test_a_table_is_split_by_patient_and_fitted(folder: Path, tmp_path: Path) -> None:
    columns = ("--group-column", "patient")
    splitting = ("split", folder / "all.csv", "--out", tmp_path, *columns, "--share", 1 / 3)
    assert "groups to" in run(*splitting).stdout
    sides = json.loads(run(*splitting, "--json").stdout)
    patients = sides["train"]["groups"]
    assert patients + sides["calibration"]["groups"] == 30
    model = ["--model", "networks:colour_network", "--weights", folder / "weights.safetensors"]
    data = ["--train", tmp_path / "train.csv", "--calibration", tmp_path / "calibration.csv"]
    result = run("fit", *model, *data, *NORMALISE, *columns, "--out", tmp_path / "guard", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["groups"] == patients
    assert facts["classes_matched"] == "in sorted order"
    mixed = ["--train", tmp_path / "train.csv", "--calibration", folder / "all.csv"]
    result = run("fit", *model, *mixed, *NORMALISE, *columns, "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert f"{patients} of the {patients} training groups" in result.stderr


@pytest.mark.parametrize("train", ["images", "images.tar", "train.npz"])
def test_a_guard_is_fitted_from_any_labelled_source(
    folder: Path, train: str, tmp_path: Path
) -> None:
    result = fit(folder, train, "held.npy", tmp_path / "guard", "--json")
    # the array is part of the other training sets, but known by its pixels, not by files
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["training_accuracy"] == 1.0


def test_every_source_of_the_same_pictures_has_the_same_scores(
    guard: Path, folder: Path, tmp_path: Path
) -> None:
    tables = {}
    for source in ("images", "images.tar", "all.csv"):
        out = tmp_path / f"{source}.parquet"
        result = run("score", guard, folder / source, "--out", out)
        assert result.exit_code == 0, result.stderr
        rows = pyarrow.parquet.read_table(out).to_pylist()
        tables[source] = {row["id"]: row["score"] for row in rows}
        assert len(tables[source]) == 180
        assert all(row["name"].endswith(".png") for row in rows)
    assert tables["images"] == pytest.approx(tables["images.tar"])
    assert tables["images"] == pytest.approx(tables["all.csv"])


def test_a_video_is_scored_frame_by_frame(guard: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for grey in range(20):
            picture = Image.new("RGB", (16, 16), (12 * grey, 0, 0))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    result = run("score", guard, tmp_path / "v.mp4", "--every", 5, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 0, result.stderr
    names = pyarrow.parquet.read_table(tmp_path / "s.parquet")["name"].to_pylist()
    assert names == [f"v.mp4@00:00:0{half / 2:.3f}" for half in range(4)]


def test_training_images_without_labels_serve_detectors_that_need_none(
    folder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "train.npy", colour_images(120, seed=1)[0])
    model = ["--model", "networks:colour_network", "--weights", folder / "weights.safetensors"]
    data = ["--train", tmp_path / "train.npy", "--calibration", folder / "held.npy"]
    arguments = ["fit", *model, *data, *NORMALISE, "--out", tmp_path / "guard"]
    result = run(*arguments, "--detector", "energy")
    assert result.exit_code == 0, result.stderr
    assert "without labels" in result.stdout
    result = run(*arguments, "--detector", "nero")
    assert result.exit_code == 1
    assert "have no labels" in result.stderr


def test_an_exported_program_moves_with_its_guard(folder: Path, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        trained_colour_network(), (torch.zeros(4, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    here = tmp_path / "here"
    here.mkdir()
    torch.export.save(program, here / "model.pt2")
    data = ["--train", folder / "train.npz", "--calibration", folder / "held.npy"]
    fitting = ["fit", "--model", f"export:{here / 'model.pt2'}", *data, *NORMALISE]
    result = run(*fitting, "--out", here / "guard")
    assert result.exit_code == 0, result.stderr
    moved = shutil.move(here, tmp_path / "there")
    result = run("score", Path(moved) / "guard", folder / "held.npy", "--out", tmp_path / "s.csv")
    assert result.exit_code == 0, result.stderr


def test_a_transformers_folder_needs_no_other_option(folder: Path, tmp_path: Path) -> None:
    from neroli.models import import_torchvision

    import_torchvision()
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(COLOURS)),
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "model")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(tmp_path / "model")
    data = ["--train", folder / "images", "--calibration", folder / "held.npy"]
    arguments = ["fit", "--model", f"hf:{tmp_path / 'model'}", *data, "--detector", "energy"]
    result = run(*arguments, "--out", tmp_path / "guard", "--allow-low-agreement", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["classes_matched"] == "by name"
    assert facts["preprocessing"].startswith("resize 32x32")
    result = run("inspect", tmp_path / "guard")
    assert "blue, green, red" in result.stdout


def test_data_sets_are_listed_described_and_checked(tmp_path: Path) -> None:
    assert "kvasir-v2" in json.loads(run("datasets", "--json").stdout)
    assert "27 classes" in run("datasets", "gastrovision").stdout
    for split in ("id", "near/new", "far/other"):
        write_pictures(tmp_path / split, 6, seed=1)
    result = run("datasets", "openmibood", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "openmibood: 3 ID classes"
    result = run("datasets", "kvasir-v2", tmp_path)
    assert result.exit_code == 1
    assert "lacks 8 folders" in result.stderr


MISTAKES = {
    "no such column": (["--label-column", "diagnosis"], "has no column 'diagnosis'"),
    "not a source": (["--train", __file__], "is no source of images"),
    "an unknown model": (["--model", "torchvision:resnet1"], "has no classifier 'resnet1'"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_get_one_clear_line(
    folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = fit(folder, "all.csv", "held.npy", tmp_path / "guard", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_labels_are_not_needed_to_score_or_calibrate(
    guard: Path, folder: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ood.npz", images=colour_images(60, seed=4)[0], labels=[9] * 60)
    result = run("score", guard, tmp_path / "ood.npz", "--out", tmp_path / "s.csv")
    assert result.exit_code == 0, result.stderr
    shutil.move(tmp_path / "ood.npz", folder / "other.npz")
    assert fit(folder, "images", "other.npz", tmp_path / "guard").exit_code == 0


def test_a_column_of_patients_that_is_not_named_is_noticed(folder: Path, tmp_path: Path) -> None:
    result = fit(folder, "all.csv", "held.npy", tmp_path / "guard")
    assert "column 'patient' of" in result.stderr
    assert "--group-column patient" in result.stderr


def test_dicom_files_are_split_by_patient_without_naming_any(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    source = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    for number in range(12):
        data = pydicom.dcmread(source)
        data.PatientID = f"Doe-{number // 2}"
        (tmp_path / "scans").mkdir(exist_ok=True)
        data.save_as(tmp_path / "scans" / f"{number}.dcm")
    result = run("split", tmp_path / "scans", "--out", tmp_path / "out", "--share", 0.5, "--json")
    assert result.exit_code == 0, result.stderr
    sides = json.loads(result.stdout)
    assert sides["train"]["groups"] + sides["calibration"]["groups"] == 6
    text = (tmp_path / "out" / "train.csv").read_text()
    assert "Doe" not in text
    again = run("split", tmp_path / "out" / "train.csv", "--out", tmp_path / "x", "--share", 0.5)
    assert again.exit_code == 0, again.stderr


def test_a_guard_in_a_linked_folder_finds_its_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    guard = tmp_path / "link" / "guard"
    assert fit(folder, "train.npz", "held.npy", guard).exit_code == 0
    assert run("score", guard, folder / "held.npy", "--out", tmp_path / "s.csv").exit_code == 0
    result = run("split", folder / "images", "--out", tmp_path / "link" / "out")
    assert result.exit_code == 0, result.stderr
    table = tmp_path / "link" / "out" / "train.csv"
    assert run("score", guard, table, "--out", tmp_path / "t.csv").exit_code == 0


def test_a_file_name_of_any_bytes_is_a_row(guard: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "new", 1, seed=1, by_class=False)
    os.rename(tmp_path / "new" / "0000.png", os.fsencode(tmp_path) + b"/new/odd\xff.png")
    for suffix in ("csv", "parquet", "jsonl"):
        out = tmp_path / f"s.{suffix}"
        result = run("score", guard, tmp_path / "new", "--out", out)
        assert result.exit_code == 0, result.stderr
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet")["name"].to_pylist() == [
        "odd\\xff.png"
    ]


def test_a_model_that_ends_the_program_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_model.py").write_text("import sys\ndef make(): sys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = ["--train", folder / "images", "--calibration", folder / "held.npy"]
    result = run("fit", "--model", "leaving_model:make", *data, "--out", tmp_path / "guard")
    assert result.exit_code == 1
    assert "leaving_model:make raised SystemExit" in result.stderr
