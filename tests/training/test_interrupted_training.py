"""Training that is interrupted, killed or finished: it goes on with the same result."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from fine_tuning import MIXED, PLAIN, same, trained
from neroli.data.pictures import Pictures
from neroli.errors import (
    ArtefactError,
)
from neroli.training import checkpoints
from networks import COLOURS


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_training_goes_on_with_the_same_result(
    sets: tuple[Pictures, Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    recipe = dataclasses.replace(MIXED, epochs=4, validate_every=1)
    whole = trained(sets, tmp_path / "whole.safetensors", recipe)

    def stop(sentence: str) -> None:
        if sentence.startswith(f"Epoch {after} "):
            raise Stop

    out = tmp_path / "w.safetensors"
    with pytest.raises(Stop):
        trained(sets, out, recipe, say=stop)
    assert not out.exists()
    said: list[str] = []
    result = trained(sets, out, recipe, say=said.append)
    assert said[0] == f"Going on after epoch {after} of 4."
    assert len(said) == 1 + 4 - after
    assert same(result.weights, whole.weights)
    assert result.history == whole.history
    assert sorted(tmp_path.glob("*.partial")) == []


def test_a_killed_training_goes_on_with_the_same_result(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    script = f"""
import os, signal, torch
from neroli.training import checkpoints
from neroli.data.arrays import ArrayFile
from neroli.training import Recipe, train
torch.set_num_threads(1)
checkpoints.SECONDS = 0.0
kill = lambda text: text.startswith("Epoch 2 ") and os.kill(os.getpid(), signal.SIGKILL)
train("networks:colour_network", ArrayFile("training.npz"), ArrayFile("validation.npz"),
      "w.safetensors", {MIXED!r}, class_names={COLOURS!r}, say=kill)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
        capture_output=True,
    )
    assert process.returncode == -9, process.stderr.decode()
    said: list[str] = []
    result = trained(sets, tmp_path / "w.safetensors", MIXED, say=said.append)
    assert said[0] == "Going on after epoch 2 of 4."
    assert same(result.weights, trained(sets, tmp_path / "whole.safetensors", MIXED).weights)


@pytest.mark.parametrize("damage", ["cut", "emptied", "another training's"])
def test_a_checkpoint_that_is_of_no_use_is_not_used(
    sets: tuple[Pictures, Pictures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    out = tmp_path / "w.safetensors"

    def stop(sentence: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        trained(sets, out, say=stop)
    path = tmp_path / "w.safetensors.partial" / "checkpoint.safetensors"
    recipe = PLAIN
    if damage == "another training's":
        recipe = dataclasses.replace(PLAIN, learning_rate=1e-3)
    else:
        path.write_bytes(path.read_bytes()[: 5000 if damage == "cut" else 0])
    said: list[str] = []
    result = trained(sets, out, recipe, say=said.append)
    assert said[0].startswith("Epoch 2 ")
    assert same(result.weights, trained(sets, tmp_path / "b.safetensors", recipe).weights)


def test_a_finished_training_is_not_repeated_but_another_is(
    sets: tuple[Pictures, Pictures], tmp_path: Path
) -> None:
    out = tmp_path / "w.safetensors"
    first = trained(sets, out)
    before = out.stat().st_mtime_ns
    said: list[str] = []
    assert trained(sets, out, say=said.append) == first
    assert out.stat().st_mtime_ns == before
    assert len(said) == 1 and "already" in said[0]
    fewer = (sets[0].subset(list(range(50))), sets[1])
    for change in (
        lambda: trained(sets, out, dataclasses.replace(PLAIN, epochs=2)),
        lambda: trained(fewer, out, dataclasses.replace(PLAIN, epochs=2)),
        lambda: trained(sets, out, class_names=["a", "b", "c"]),
    ):
        change()
        assert out.stat().st_mtime_ns != before
        before = out.stat().st_mtime_ns


def test_only_one_process_trains_to_a_file(sets: tuple[Pictures, Pictures], tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with (
        checkpoints.Checkpoints(out, "other"),
        pytest.raises(ArtefactError, match="Another process"),
    ):
        trained(sets, out)
