"""``neroli export``, and the other commands with what it wrote."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from neroli.cli import app
from neroli.data.preprocessing import Preprocessing
from neroli.models import load_classifier

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the [onnx] extra is not installed")

NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25 0.25 0.25"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def of_network(pictures: Path) -> list[object]:
    return ["networks:colour_network", "--weights", pictures / "weights.safetensors"]


@pytest.fixture(scope="module")
def exported(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "colours.onnx"
    given = [*of_network(pictures), *NORMALISE, "--images", pictures / "new"]
    result = run("export", *given, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["head"], facts["input_shape"], facts["compared_on"]) == ("6", [3, 8, 8], 8)
    assert not facts["noise"] and facts["bytes"] == out.stat().st_size
    assert 0 < facts["features_difference"] + facts["logits_difference"] < 1e-4
    return out


def fitted(model: list[object], pictures: Path, out: Path) -> dict[str, object]:
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    result = run("fit", "--model", *model, *data, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    facts: dict[str, object] = json.loads(result.stdout)
    return facts


def scores(guard: Path, pictures: Path, *more: object) -> torch.Tensor:
    out = guard.with_suffix(".jsonl")
    out.unlink(missing_ok=True)
    result = run("score", guard, pictures / "new", "--out", out, *more)
    assert result.exit_code == 0, result.stderr
    return torch.tensor([json.loads(line)["score"] for line in out.read_text().splitlines()])


def test_fit_score_and_explain_work_from_the_file_alone(
    exported: Path, pictures: Path, tmp_path: Path
) -> None:
    ours = fitted([f"onnx:{exported}"], pictures, tmp_path / "ours")
    theirs = fitted([*of_network(pictures), *NORMALISE], pictures, tmp_path / "theirs")
    assert ours["threshold"] == pytest.approx(theirs["threshold"], rel=1e-4)
    assert ours["preprocessing"] == theirs["preprocessing"]
    found = scores(tmp_path / "ours", pictures)
    torch.testing.assert_close(found, scores(tmp_path / "theirs", pictures), rtol=0, atol=1e-4)
    moved = scores(tmp_path / "theirs", pictures, "--model", f"onnx:{exported}")
    torch.testing.assert_close(moved, found, rtol=0, atol=1e-4)
    page = tmp_path / "why.html"
    result = run("explain", tmp_path / "ours", pictures / "new", "--out", page, "--limit", 2)
    assert result.exit_code == 0, result.stderr
    assert "without heat maps" in page.read_text()


def test_bench_works_from_the_file_and_leaves_out_what_needs_layers(
    exported: Path, pictures: Path, tmp_path: Path
) -> None:
    data = ["--id", pictures / "train", "--ood", f"far={pictures / 'new'}"]
    more = ["--detectors", "msp,nero,odin", "--resamples", 10, "--gallery", 1, "--json"]
    result = run("bench", "--model", f"onnx:{exported}", *data, *more, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert sorted(row["detector"] for row in facts["rows"]) == ["msp", "nero"]
    assert "layers or gradients" in facts["failures"][0]["reason"]


def test_the_preprocessing_that_was_asked_for_is_in_the_file(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.onnx"
    result = run("export", *of_network(pictures), *NORMALISE, "--resize", "9x10", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "images of shape [3, 9, 10], head '6'" in result.stdout
    assert "On 8 images of noise it differs from the network by at most" in result.stdout
    assert load_classifier(f"onnx:{out}").preprocessing == Preprocessing(
        (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), resize=(9, 10)
    )


def test_what_cannot_be_exported_is_said_in_one_sentence(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    result = run("export", *of_network(pictures), *NORMALISE, "--out", out)
    assert result.exit_code == 1
    assert "size of the network's images is not known: give images" in result.stderr
    result = run("export", *of_network(pictures), "--out", out)
    assert "does not state its preprocessing" in result.stderr
    other = out.with_suffix(".txt")
    result = run("export", *of_network(pictures), *NORMALISE, "--out", other)
    assert result.exit_code == 1
    assert f"ends in .onnx, got {str(other)!r}" in result.stderr
    assert not other.exists()
    assert not out.exists()


def test_the_file_cannot_be_trained(exported: Path, pictures: Path, tmp_path: Path) -> None:
    data = ["--data", pictures / "train", "--out", tmp_path / "w.safetensors", "--size", 8]
    result = run("train", "--arch", f"onnx:{exported}", *data)
    assert result.exit_code == 1
    assert "which is frozen: name the network it was made of" in result.stderr
