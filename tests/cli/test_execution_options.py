"""How the network runs is an option of the command line, and a guard remembers it."""

import csv
import json
from pathlib import Path

import torch
from typer.testing import CliRunner, Result

from neroli import Guard
from neroli.cli import app
from neroli.execution import Execution
from networks import trained_colour_network


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def scores(path: Path) -> torch.Tensor:
    with path.open(newline="") as file:
        return torch.tensor([float(row["score"]) for row in csv.DictReader(file)])


def test_a_guard_scores_as_it_was_fitted_unless_told_otherwise(
    pictures: Path, tmp_path: Path
) -> None:
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    values = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
    guard, new = tmp_path / "guard", pictures / "new"
    half = ["--precision", "bfloat16", "--channels-last"]
    fitted = run("fit", *model, *data, *values, "--out", guard, *half, "--json")
    assert fitted.exit_code == 0, fitted.stderr
    assert json.loads(fitted.stdout)["execution"] == "bfloat16, channels last"

    same = run("score", guard, new, "--out", tmp_path / "same.csv")
    assert same.exit_code == 0 and "warning" not in same.stderr
    network, files = trained_colour_network(), sorted(new.iterdir())
    expected = Guard.load(guard, network)(files).score
    torch.testing.assert_close(scores(tmp_path / "same.csv"), expected, rtol=0, atol=1e-4)

    other = run("score", guard, new, "--out", tmp_path / "other.csv", "--precision", "float32")
    assert other.exit_code == 0
    assert "warning: The guard was fitted and calibrated in bfloat16" in other.stderr
    loaded = Guard.load(guard, network)
    loaded.classifier.execution = Execution()
    torch.testing.assert_close(
        scores(tmp_path / "other.csv"), loaded(files).score, rtol=0, atol=1e-4
    )

    wrong = run("score", guard, new, "--out", tmp_path / "wrong.csv", "--precision", "float8")
    assert wrong.exit_code == 1 and "--precision takes float32, bfloat16 or" in wrong.stderr
