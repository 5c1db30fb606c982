"""`neroli bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import write_pictures
from layouts import write_classes
from neroli.benchmark import suite as suites
from neroli.cli import app
from neroli.data.named import gastro

COLOURS = ["--model", "networks:trained_colour_network"]
NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25 0.25 0.25"]
QUICK = ["--resamples", 20, "--gallery", 1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ID colour pictures by class, and a near and a far OOD set."""
    root = tmp_path_factory.mktemp("own")
    write_pictures(root / "known", 150, seed=1)
    size = np.asarray(Image.open(next((root / "known").rglob("*.png")))).shape
    draw = np.random.default_rng(0)
    for name in ("noise", "other"):
        (root / name).mkdir()
        for number in range(20):
            pixels = draw.integers(0, 256, size, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def own(folders: Path) -> list[object]:
    sets = ["--ood", f"near={folders / 'noise'}", "--ood", f"far={folders / 'other'}"]
    return [*COLOURS, *NORMALISE, "--id", folders / "known", *sets, *QUICK]


def test_own_folders_need_no_suite(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(*own(folders), "--detectors", "nero,line,msp", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "highest mean AUROC over 2 OOD sets" in result.stdout
    assert "nero" in result.stdout
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "activations",
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
        "results.parquet",
        "scores",
    ]
    table = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert {(row["label"], row["ood_set"]) for row in table} == {
        (label, name) for label in ("nero", "line", "msp") for name in ("noise", "other")
    }


def test_json_is_what_results_json_holds(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(*own(folders), "--detectors", "msp", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    written = json.loads((out / "results.json").read_text())
    assert {name: said[name] for name in written} == written
    assert said["report"] == str(out / "report.html")


def test_unreadable_images_are_counted_and_the_exit_code_says_so(
    folders: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (folders / "noise").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "5.png").write_bytes(b"not a picture")
    arguments = [*own(folders), "--ood", f"far={broken}", "--detectors", "msp,line"]
    result = run(*arguments, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 3, result.stderr
    (found,) = (each for each in json.loads(result.stdout)["sets"] if each["name"] == "broken")
    assert (found["images"], found["unreadable"]) == (19, 1)


def shortened(name: str, folder: Path) -> Path:
    """A built-in suite whose training is one small epoch and whose detectors are few."""
    text = (suites._BUILTIN / f"{name}.toml").read_text()
    short = "epochs = 1\nsize = 32\nvalidate_every = 1\n"
    text = text.replace('arch = "timm:resnet18"\n', f'arch = "timm:resnet18"\n{short}')
    path = folder / f"{name}.toml"
    path.write_text(f'detectors = ["msp", "nero"]\n{text}')
    assert short in path.read_text()
    return path


@pytest.mark.parametrize(
    ("name", "place", "data"),
    [
        ("kvasir-v2", "kvasir-dataset-v2", gastro.KVASIR),
        ("gastrovision", "Gastrovision", gastro.GASTROVISION),
    ],
)
def test_endoscopy_suites_train_and_run_on_folders_in_the_right_layout(
    name: str, place: str, data: gastro.ClassFolders, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    for folder in write_classes(tmp_path / place, data.classes, 14).iterdir():
        colour = draw.integers(0, 200, 3)  # so that there is something to learn of a class
        for path in folder.iterdir():
            pixels = colour + draw.integers(0, 56, (24, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    suite, out = shortened(name, tmp_path), tmp_path / "out"
    result = run(suite, "--data", tmp_path, "--out", out, *QUICK, "--gallery", 0, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {"msp", "ODIN, as in NERO's table"} <= {row["label"] for row in found["rows"]}
    (failed,) = found["failures"]
    assert "needs at least as many training images" in failed["reason"]  # NERO, of a handful
    assert [each["name"] for each in found["sets"]] == ["train", "calibration", "test", "disease"]
    assert found["model"]["classes"] == len(data.id_classes)
    assert {each["id_set"] for each in found["published"]} == {name}
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["kvasir-v2", "gastrovision", "cifar-line", "imagenet-line"])
def test_absent_data_are_said_with_where_they_come_from_and_belong(
    name: str, tmp_path: Path
) -> None:
    result = run(name, "--data", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"The suite {name!r} lacks files" in result.stderr
    assert "Download: " in result.stderr
    assert str(tmp_path) in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_suite_and_what_it_needs() -> None:
    result = run("--list")
    assert result.exit_code == 0
    for name in suites.builtin_names():
        assert f"{name}: " in result.stdout
    assert "https://datasets.simula.no/kvasir/" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a suite"),
        (["cifar10-resnet"], "did you mean"),
        (["digits", "--id", "x"], "has its own images"),
        ([*COLOURS, "--id", "x"], "at least one --ood"),
        ([*COLOURS, "--id", "x", "--ood", "x"], "--ood takes near=PATH or far=PATH, got 'x'"),
        ([*COLOURS, "--id", "nowhere", "--ood", "near=nothing"], "nowhere"),
        (["openmibood"], "--data"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    arguments: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_detector_is_refused_before_the_work(folders: Path, tmp_path: Path) -> None:
    result = run(*own(folders), "--detectors", "nerro", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "did you mean 'nero'" in result.stderr
    assert not (tmp_path / "out").exists()
