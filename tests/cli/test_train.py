"""``neroli train``, and ``neroli fit`` with what it leaves."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import write_pictures
from neroli.cli import app
from neroli.models.statement import Epoch
from neroli.training import checkpoints
from neroli.training.epochs import Session
from networks import COLOURS

OPTIONS = ("--epochs", 3, "--validate-every", 1, "--size", 8, "--learning-rate", 0.01)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(data: Path, out: Path, *more: object, arch: str = "networks:colour_network") -> Result:
    return run("train", "--arch", arch, "--data", data, "--out", out, *OPTIONS, *more)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_that_it_names_next_fits_a_guard(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--epochs", 8, "--share", 0.4)  # a threshold needs 45 images
    result = train(pictures / "train", Path("w.safetensors"), *options)
    assert result.exit_code == 0, result.stderr
    assert "on 48 images, trained on 72 of 3 classes; 0 unreadable" in result.stdout
    assert "neroli: Epoch 8 of 8: loss" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "w-training.csv",
        "w-validation.csv",
        "w.safetensors",
    ]
    command = result.stdout[result.stdout.index("Next: neroli ") :].split()[2:]
    fitted = run(*command, "--allow-low-agreement", "--json")
    assert fitted.exit_code == 0, fitted.stderr
    facts = json.loads(fitted.stdout)
    assert facts["classes_matched"] == "by name"
    assert facts["training_images"] == 72
    assert facts["preprocessing"].startswith("resize 8x8, mean 0.485")


def test_a_table_is_held_out_by_patient(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 120, seed=1)
    paths = sorted((tmp_path / "images").rglob("*.png"), key=lambda path: path.name)
    lines = [f"{p},{p.parent.name},P{number // 6}" for number, p in enumerate(paths)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,patient", *lines]))
    out = tmp_path / "w.safetensors"
    options = ("--group-column", "patient", "--share", 0.25, "--json")
    result = train(tmp_path / "all.csv", out, *options)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    sides = [rows(Path(facts["tables"][side])) for side in ("training", "validation")]
    assert [len(side) for side in sides] == [90, 30]
    patients = [{row["group"] for row in side} for side in sides]
    assert patients[0].isdisjoint(patients[1])
    assert all((tmp_path / row["path"]).parent.name == row["label"] for row in sides[1])


def test_validation_images_may_be_given(pictures: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "held", 30, seed=5)
    out = tmp_path / "w.safetensors"
    options = ("--validation", tmp_path / "held", "--no-augment", "--json")
    result = train(pictures / "train", out, *options)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["training_images"], facts["validation_images"]) == (120, 30)
    assert facts["tables"] is None
    assert facts["classes"] == list(COLOURS)
    shutil.rmtree(tmp_path / "held" / "red")
    result = train(pictures / "train", out, *options)
    assert result.exit_code == 1
    assert "The class folder 'red' has no image" in result.stderr


def test_a_file_name_that_no_table_can_hold_costs_the_tables_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 30, seed=1)
    odd = os.fsencode(tmp_path / "images" / "red") + b"/\xff.png"
    os.rename(tmp_path / "images" / "red" / "0002.png", odd)
    result = train(tmp_path / "images", tmp_path / "w.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    assert "warning: No tables of the images trained on and held out" in result.stderr
    assert json.loads(result.stdout)["tables"] is None


def test_grey_networks_are_trained_with_one_mean(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "grey_networks.py").write_text(
        "from networks import tiny_network\ndef grey(): return tiny_network(3, channels=1)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        grey = ("--mean", "0.5", "--std", "0.25")
        out = tmp_path / "w.safetensors"
        result = train(pictures / "train", out, *grey, arch="grey_networks:grey")
        assert result.exit_code == 0, result.stderr
    assert load_file(out)["0.weight"].shape == (16, 1, 3, 3)


def test_timm_starts_from_weights_of_other_classes(pictures: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    begin = timm.create_model("resnet10t", pretrained=False, num_classes=5)
    save_file(begin.state_dict(), tmp_path / "begin.safetensors")
    out = tmp_path / "w.safetensors"
    options = ("--weights", tmp_path / "begin.safetensors", "--size", 32, "--epochs", 1)
    result = train(pictures / "train", out, *options, arch="timm:resnet10t")
    assert result.exit_code == 0, result.stderr
    assert "all but the head (fc.weight, fc.bias) is taken from them" in result.stderr
    state = load_file(out)
    assert state["fc.weight"].shape[0] == 3
    # one epoch of three steps of at most a few hundredths each
    moved = (state["conv1.0.weight"] - begin.state_dict()["conv1.0.weight"]).abs().max()
    assert 0 < moved < 0.1


def test_unreadable_images_are_listed_with_exit_code_3(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 30, seed=1)
    (tmp_path / "images" / "red" / "broken.png").write_bytes(b"no image")
    result = train(tmp_path / "images", tmp_path / "w.safetensors", "--json")
    assert result.exit_code == 3
    assert "unreadable image 'red/broken.png' is not an image" in result.stderr
    assert json.loads(result.stdout)["unreadable"] == 1


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        ("rm -r green; mkdir green", (), "class folder 'green' has no image"),
        ("rm -r green red", (), "two classes or more, got ['blue']"),
        ("touch 1.png; mv 1.png ..; rm -r *; mv ../1.png .", (), "have no labels: put them into"),
        ("touch 1.png", (), "'1.png' in '.*' lies in no class folder"),
        ("rm green/*; touch green/a.png green/b.png", (), "'green' has no training image that can"),
        ("true", ("--share", 1.5), "share must be a number between 0 and 1, got 1.5"),
        ("true", ("--size", "8by8"), "--size takes pixels"),
        ("true", ("--epochs", 0), "epochs must be 1 or more, got 0"),
        ("true", ("--batch-size", 1), "batch_size must be 2 or more, got 1"),
        ("true", ("--mean", "0.5"), "mean and std must both have one value"),
        ("true", ("--arch", "networks:gone"), "has no 'gone'"),
        ("true", ("--validation", "gone"), "no file or folder 'gone'"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    tmp_path: Path, prepare: str, options: tuple[object, ...], message: str
) -> None:
    write_pictures(tmp_path / "images", 30, seed=1)
    subprocess.run(prepare, shell=True, cwd=tmp_path / "images", check=True)
    result = train(tmp_path / "images", tmp_path / "w.safetensors", *options)
    assert result.exit_code == 1
    assert result.stdout == ""
    if ".*" in message:
        message = message.replace(".*", str(tmp_path / "images"))
    assert message in result.stderr
    assert not list(tmp_path.glob("w*"))


def test_interrupted_the_same_command_goes_on_with_the_same_result(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    run_epoch = Session.run

    def interrupted(session: Session, number: int, advance: Callable[[int], None]) -> Epoch:
        if number == 2:
            raise KeyboardInterrupt
        return run_epoch(session, number, advance)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", interrupted)
        result = train(pictures / "train", tmp_path / "w.safetensors")
        assert result.exit_code == 130
        assert "run the same command to go on" in result.stderr
        assert not (tmp_path / "w.safetensors").exists()
    result = train(pictures / "train", tmp_path / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "neroli: Going on after epoch 1 of 3." in result.stderr
    assert train(pictures / "train", tmp_path / "whole.safetensors").exit_code == 0
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("w", "whole"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = train(pictures / "train", tmp_path / "w.safetensors")
    assert again.exit_code == 0
    assert "holds the weights of this training already" in again.stderr
