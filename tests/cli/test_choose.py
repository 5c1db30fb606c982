"""`neroli choose` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from conftest import write_pictures
from neroli.choice import Choice
from neroli.cli import app
from neroli.detectors import DEFAULT

NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
QUICK = ["--detectors", "msp,knn,vim"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(pictures: Path, train: Path, calibration: Path, *more: object) -> list[object]:
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    return [*model, "--train", train, "--calibration", calibration, *NORMALISE, *more]


def choose(pictures: Path, labelled: Path, *more: object) -> Result:
    return run("choose", *command(pictures, pictures / "train", labelled, *more))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out pictures by class."""
    return write_pictures(tmp_path_factory.mktemp("choose") / "held-out", 90, seed=9)


def test_a_table_a_verdict_and_how_to_go_on(pictures: Path, labelled: Path, tmp_path: Path) -> None:
    result = choose(pictures, labelled, *QUICK)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "no out-of-distribution image was seen" in lines[0]
    assert lines[2].split()[0] == "#"
    assert {line.split()[1] for line in lines[3:7]} == {"msp", "knn", "vim", DEFAULT}
    assert [line.split()[0] for line in lines[3:7]] == ["1", "2", "3", "4"]
    chosen = lines[-1].rsplit(" ", 1)[1]
    assert lines[-1] == f"Go on with the same options: neroli fit ... --detector {chosen}"
    assert lines[8].startswith((f"The default, {DEFAULT}, stands", f"{chosen} beats the default"))
    assert "Only 3 classes or groups could be left out" in result.stdout
    fit = command(pictures, pictures / "train", labelled, "--detector", chosen)
    done = run("fit", *fit, "--out", tmp_path / "guard")
    assert done.exit_code == 0, done.stderr


def test_json_and_the_file_hold_all_that_was_found(
    pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    result = choose(pictures, labelled, *QUICK, "--json", "--out", tmp_path / "choice.json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert json.loads((tmp_path / "choice.json").read_text()) == facts
    assert facts.pop("fit") == ["--detector", facts["recommended"]]
    choice = Choice.model_validate(facts)
    assert (choice.training_images, choice.held_out_images, choice.folds) == (120, 90, 3)
    assert choice.corrupted_images == 90
    assert {each.detector for each in choice.ranked} == {"msp", "knn", "vim", DEFAULT}
    assert all(len(each.left_out.folds) == 3 for each in choice.ranked if each.left_out)
    assert choose(pictures, labelled, *QUICK, "--json").stdout == result.stdout


def test_the_page_has_the_table_and_the_verdict(
    pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    result = choose(pictures, labelled, *QUICK, "--out", tmp_path / "choice.md")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "choice.md").read_text()
    assert page.startswith("# Detectors compared without OOD images\n")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [7] * 6
    verdict = result.stdout.splitlines()[8]
    assert verdict in page.splitlines()


def test_held_out_images_without_classes_leave_corrupted_ones(pictures: Path) -> None:
    result = choose(pictures, pictures / "calibration", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["remarks"][0].startswith("Corrupted images alone rank")
    assert "the held-out images have no labels" in facts["remarks"][0]
    assert (facts["folds"], facts["corrupted_images"]) == (0, 60)


def test_folders_that_are_no_classes_are_said_not_to_be_used(
    pictures: Path, tmp_path: Path
) -> None:
    for name in ("patient 1", "patient 2"):
        shutil.copytree(pictures / "calibration", tmp_path / "own" / name)
    result = choose(pictures, tmp_path / "own", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["warnings"][0].startswith("The labels of the held-out images are not used")
    assert (facts["held_out_images"], facts["dropped"]) == (60, 60), "both patients have the same"


def test_every_image_goes_through_the_network_once(
    pictures: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose(pictures, labelled, *QUICK, "--json", "--store", tmp_path / "store")
    assert first.exit_code == 0, first.stderr
    names = ("training", "calibration", "corrupted")
    assert all((tmp_path / "store" / name / "store.json").exists() for name in names)

    def never(*arguments: object, **more: object) -> None:
        raise AssertionError("all activations are stored")

    monkeypatch.setattr("neroli.extraction.stream", never)
    again = choose(pictures, labelled, *QUICK, "--json", "--store", tmp_path / "store")
    assert again.stdout == first.stdout


def test_stores_of_the_images_serve_but_cannot_be_corrupted(
    pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    kept = choose(pictures, labelled, *QUICK, "--json", "--store", tmp_path / "store")
    training, held_out = (tmp_path / "store" / name for name in ("training", "calibration"))
    arguments = command(pictures, training, held_out, "--detectors", "msp,knn,vim,gram", "--json")
    result = run("choose", *arguments)
    assert result.exit_code == 0, result.stderr
    facts, before = json.loads(result.stdout), json.loads(kept.stdout)
    assert facts["remarks"][0].startswith("Classes left out alone rank")
    folds = [
        {each["detector"]: each["left_out"]["folds"] for each in found["ranked"]}
        for found in (facts, before)
    ]
    assert folds[0] == folds[1]
    (failed,) = facts["failures"]
    assert failed["label"] == "gram"
    assert "lacks 'layer1:gram5'" in failed["reason"]


def test_detectors_that_cannot_be_compared_are_listed(pictures: Path, labelled: Path) -> None:
    result = choose(pictures, labelled, "--detectors", "msp,odin,gram")
    assert result.exit_code == 0, result.stderr
    assert "Not compared: odin: ODIN runs the network again" in result.stdout
    assert "Not compared: gram: " in result.stdout


def test_probes_are_compared_where_no_class_is_left_out(pictures: Path) -> None:
    result = choose(pictures, pictures / "calibration", "--detectors", "msp,odin", "--json")
    assert result.exit_code == 0, result.stderr
    assert "odin" in [each["detector"] for each in json.loads(result.stdout)["ranked"]]


def test_training_images_among_those_held_out_are_dropped_or_refused(
    pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    few = shutil.copytree(pictures / "calibration", tmp_path / "few")
    write_pictures(tmp_path / "more", 60, seed=30, by_class=False)
    for path in (tmp_path / "more").iterdir():
        shutil.copy(path, few / f"more-{path.name}")
    shutil.copy(next((pictures / "train" / "red").iterdir()), few / "known.png")
    result = choose(pictures, few, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["held_out_images"], facts["dropped"]) == (120, 1)
    assert facts["corrupted_images"] == 120
    refused = choose(pictures, pictures / "train", *QUICK)
    assert refused.exit_code == 1
    assert "120 of 120 calibration images are also training images" in refused.stderr


def test_unreadable_images_are_listed_and_the_exit_code_says_so(
    pictures: Path, labelled: Path, tmp_path: Path
) -> None:
    held_out = shutil.copytree(labelled, tmp_path / "held-out")
    (held_out / "red" / "broken.png").write_bytes(b"not a picture")
    result = choose(pictures, held_out, *QUICK)
    assert result.exit_code == 3
    assert "unreadable image 'red/broken.png'" in result.stderr
    assert "neroli fit" in result.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "choice.txt"], "--out takes a .json or .md file, got 'choice.txt'"),
        (["--detectors", "mps"], "There is no detector 'mps': did you mean 'msp'?"),
        (["--detectors", ","], "',' names no detector: give names with commas between"),
        (["--out", "/proc/there/choice.md"], "Cannot write '/proc/there/choice.md'"),
        (["--detectors", "msp,msp"], "The detector 'msp' is named twice"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    more: list[str], message: str, pictures: Path, labelled: Path
) -> None:
    result = choose(pictures, labelled, *more)
    assert result.exit_code == 1
    assert message in result.stderr
