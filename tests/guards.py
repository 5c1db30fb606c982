"""Fits on the command line, and whether two saved guards are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from neroli.cli import app

NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fit_arguments(pictures: Path, out: Path, *more: object) -> list[object]:
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    return ["fit", *model, *data, *NORMALISE, "--out", out, *more]


def done(command: list[object]) -> Result:
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    return result


def state(guard: Path) -> dict[str, torch.Tensor]:
    (path,) = guard.glob("state-*.safetensors")
    return load_file(path)


def manifest(guard: Path) -> dict[str, object]:
    facts = json.loads((guard / "manifest.json").read_text())
    del facts["created"], facts["state_hash"]
    return facts


def assert_same_guard(one: Path, other: Path) -> None:
    """The manifests are equal, and all tensors up to rounding."""
    facts, theirs = manifest(one), manifest(other)
    for calibration in (facts["calibration"], theirs["calibration"]):
        assert isinstance(calibration, dict)
    ours = facts["calibration"].pop("threshold")  # type: ignore[attr-defined]
    assert theirs["calibration"].pop("threshold") == pytest.approx(ours, rel=1e-4)  # type: ignore[attr-defined]
    assert facts == theirs
    expected, found = state(one), state(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
