"""Fit and score on processes that torchrun has really started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from guards import assert_same_guard, done, fit_arguments, run

TESTS = Path(__file__).parents[1]


def torchrun(*arguments: object, program: str = "neroli", **more: str) -> tuple[int, str, str]:
    """The exit code and what two processes on this machine have said."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    run = subprocess.run(
        [sys.executable, *launcher, "-m", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return run.returncode, run.stdout, run.stderr


def test_fit_on_two_processes_goes_on_where_one_was_killed(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "guard"
    arguments = fit_arguments(pictures, out, "--keep-examples", 10)
    done(arguments)
    single = out.rename(tmp_path / "single")
    code, printed, said = torchrun(*arguments, "--engine", "torchrun", program="killed_rank")
    assert code != 0
    assert printed == ""
    assert "SIGKILL" in said
    assert (tmp_path / "guard.partial" / "job.json").exists()
    code, printed, said = torchrun(*arguments, "--engine", "torchrun", "--json")
    assert code == 0, said
    assert json.loads(printed)["training_images"] == 120  # one process prints
    assert_same_guard(single, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guard", "single"]


def test_scores_of_two_processes_are_one_table(pictures: Path, tmp_path: Path) -> None:
    """Every row once and in order, of which one says what could not be read."""
    guard, tables = tmp_path / "guard", [tmp_path / "one.csv", tmp_path / "two.csv"]
    done(fit_arguments(pictures, guard))
    images = shutil.copytree(pictures / "new", tmp_path / "new")
    (images / "0007.png").write_bytes(b"junk")
    # a batch's unreadable images come behind the others: 20 images a process are whole batches
    scoring = ["score", guard, images, "--batch-size", 5, "--out"]
    assert run(*scoring, tables[0]).exit_code == 3
    code, printed, said = torchrun(*scoring, tables[1], "--engine", "torchrun")
    assert code == 0, said
    assert printed.count("Wrote 40 rows") == 1
    assert said.count("unreadable image '0007.png'") == 1
    assert tables[0].read_text() == tables[1].read_text()
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.csv"]


def test_activations_spread_over_processes(tmp_path: Path) -> None:
    """What ``distributed_activations.py`` checks on each of two processes."""
    code, printed, said = torchrun(program="distributed_activations")
    assert code == 0, said
    assert printed.count("as it should be") == 2


def test_the_engine_needs_torchrun(pictures: Path, tmp_path: Path) -> None:
    result = run(*fit_arguments(pictures, tmp_path / "g", "--engine", "torchrun"))
    assert result.exit_code == 1
    assert "torchrun --nproc-per-node 2 -m neroli" in result.stderr
    result = run(*fit_arguments(pictures, tmp_path / "g", "--engine", "ray", "--shard", "1/2"))
    assert result.exit_code == 1
    assert "--shard is for --engine local" in result.stderr
