"""A fit cut into shards on the command line gives the guard of a single run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from guards import assert_same_guard, done, fit_arguments, run
from neroli.cli.fit_run import FitRun
from neroli.files import locked
from neroli.store import ActivationStore

TESTS = Path(__file__).parents[1]
HELD_OUT = ["--guarantee", "average"]  # half of 60 images must do for a threshold
DETECTORS = {
    "two passes": ["nero", "--keep-examples", "12"],
    "a bank": ["knn", "--set", "k=5", "--keep-examples", "500"],
    "taps": ["gram", "--set", "layers=2"],
    "views": ["views", "--set", "detector=line", "--set", "views=mirror,up:1"],
    "held-out images": [
        *("ensemble", "--set", "members=line,energy", "--set", "standardise_on=held-out"),
        *HELD_OUT,
    ],
    "held-out labels": ["temperature_scaled_msp", *HELD_OUT],
}
SHARDS = 3


def gathered_in_rounds(folder: Path) -> int:
    """Gather pass after pass until none is left; the number of passes."""
    left = True
    for number in range(1, 40):
        for shard in range(1, SHARDS + 1):
            result = run("merge", folder, "--shard", f"{shard}/{SHARDS}", "--json")
            assert result.exit_code == 0, result.stderr
            facts = json.loads(result.stdout)
            if facts["pass"] is None:
                assert not left, "the last shard of the last round has said so"
                return number - 1
            assert left, "there was another pass"
            assert facts["pass"] == number
            assert len(facts["missing"]) == SHARDS - shard
            left = facts["left"]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("options", DETECTORS.values(), ids=DETECTORS.keys())
def test_shards_give_the_guard_of_the_single_run(
    options: list[str], pictures: Path, tmp_path: Path
) -> None:
    if "temperature" in options[0]:  # images of other content, in folders by class
        for part, degrees in (("train", 0), ("calibration", 90)):
            shutil.copytree(pictures / "train", tmp_path / "p" / part)
            for path in (tmp_path / "p" / part).rglob("*.png"):
                Image.open(path).rotate(degrees).save(path)
        shutil.copy(pictures / "weights.safetensors", tmp_path / "p")
        pictures = tmp_path / "p"
    out, partial = tmp_path / "guard", tmp_path / "guard.partial"
    arguments = fit_arguments(pictures, out, "--detector", *options)
    done(arguments)
    single = out.rename(tmp_path / "single")
    for number in reversed(range(1, SHARDS + 1)):  # in any order
        done([*arguments, "--shard", f"{number}/{SHARDS}", "--batch-size", 16 * number])
    copy = shutil.copytree(partial, tmp_path / "copy")
    done(["merge", partial])
    assert_same_guard(single, out)
    assert not partial.exists()
    passes = gathered_in_rounds(copy)
    assert passes > 1
    done(["merge", copy])
    assert_same_guard(single, out)


def test_missing_shards_are_named_and_unreadable_images_are_listed_at_the_end(
    pictures: Path, tmp_path: Path
) -> None:
    """The images of shard 2 are all broken, and of shard 5 some."""
    shutil.copytree(pictures, tmp_path / "p")
    images = sorted((tmp_path / "p" / "train").rglob("*.png"))
    for path in [*images[20:40], images[90]]:
        path.write_bytes(b"junk")
    out, store = tmp_path / "guard", tmp_path / "store"
    arguments = fit_arguments(tmp_path / "p", out)
    assert run(*arguments).exit_code == 3
    out.rename(tmp_path / "single")
    shards = [*arguments, "--store", store, "--shard"]
    for number in (1, 2, 4, 5):
        result = done([*shards, f"{number}/6"])
        assert ("unreadable image" in result.stderr) is (number in (2, 5))
    result = run("merge", store)
    assert result.exit_code == 1
    assert "Shards 3 and 6 of 6 are missing" in result.stderr
    assert "--shard 3/6 and --shard 6/6" in result.stderr
    for number in (3, 6):
        done([*shards, f"{number}/6"])
    for number in range(1, 7):  # one round; the merge makes the pass after it
        done(["merge", store, "--shard", f"{number}/6"])
    result = run("merge", store, "--json")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)["unreadable"]) == 21
    assert_same_guard(tmp_path / "single", out)
    assert sorted(path.name for path in store.iterdir()) == ["calibration", "training"]
    result = run("merge", store)
    assert result.exit_code == 1
    assert "no job.json" in result.stderr


def test_other_options_are_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    arguments = fit_arguments(pictures, tmp_path / "g", "--store-dtype", "float16")
    done([*arguments, "--shard", "1/2"])
    part = ActivationStore(tmp_path / "g.partial" / "parts" / "training-1-of-2")
    assert part.columns()["features"][0] == "F16"
    for more, message in (
        (["--detector", "knn"], "begun with --detector 'ensemble', not 'knn'"),
        (["--set", "combine=max"], "begun with --set left out, not combine=max"),
        (["--false-alarm-rate", "0.2"], "begun with --false-alarm-rate '0.05', not '0.2'"),
    ):
        result = run(*arguments, *more, "--shard", "2/2")
        assert result.exit_code == 1
        assert message in result.stderr
    result = run(*arguments, "--shard", "2/3")
    assert "begun with 2 shards, not 3" in result.stderr
    result = run("merge", tmp_path / "g.partial", "--shard", "1/3")
    assert "is of 2 shards, not 3" in result.stderr
    for wrong in ("3/2", "0/2", "1", "a/b", "1/0"):
        assert run(*arguments, "--shard", wrong).exit_code == 1
    done([*arguments, "--shard", "2/2", "--device", "cpu", "--batch-size", 7])  # these may differ
    (tmp_path / "g.partial" / "job.json").write_text('{"schema_version": 9}')
    assert "schema 9, newer than the 1" in run("merge", tmp_path / "g.partial").stderr


def test_statistics_of_another_job_are_refused_in_a_round_and_gathered_anew_by_the_merge(
    pictures: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "g", tmp_path / "g.partial"
    arguments = fit_arguments(pictures, out)
    done(arguments)
    single = out.rename(tmp_path / "single")
    for number in (1, 2):
        done([*arguments, "--shard", f"{number}/2"])
    done(["merge", partial, "--shard", "1/2"])
    first, second = (partial / "pass-1" / f"shard-{n}.safetensors" for n in (1, 2))
    again = run("merge", partial, "--shard", "1/2", "--json")
    assert json.loads(again.stdout)["missing"] == ["2/2"]
    for content, message in (
        (first.read_bytes(), "are of another shard: delete"),
        (first.read_bytes()[:-9], "are damaged"),
        (first.read_bytes().replace(b"neroli statistics", b"neroli statistocs"), "are damaged"),
    ):
        second.write_bytes(content)
        result = run("merge", partial, "--shard", "1/2")
        assert result.exit_code == 1
        assert message in result.stderr
    copy = shutil.copytree(partial, tmp_path / "copy")
    result = done(["merge", copy])
    assert "are damaged" in result.stderr
    assert "pass 1 and those after it are gathered anew" in result.stderr
    assert_same_guard(single, out)
    second.unlink()
    done(["merge", partial, "--shard", "2/2"])
    theirs = json.loads((partial / "job.json").read_text())
    theirs["options"]["confidence"] = 0.8
    (partial / "job.json").write_text(json.dumps(theirs))
    result = run("merge", partial, "--shard", "1/2")
    assert "are of another fit or version" in result.stderr


def test_a_job_of_many_processes_that_are_killed_goes_on(pictures: Path, tmp_path: Path) -> None:
    """As a scheduler runs them: one process a shard, at once; some die, and run again."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "RANK": "1",  # the one that is killed
    }

    def started(command: list[object], program: str = "neroli") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", program, *map(str, command)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    arguments = fit_arguments(pictures, tmp_path / "g")
    done(arguments)
    (tmp_path / "g").rename(tmp_path / "single")
    shards = [[*arguments, "--shard", f"{number}/2"] for number in (1, 2)]
    killed = started(shards[0], "killed_rank")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert "are missing" in run("merge", tmp_path / "g.partial").stderr
    for commands in (
        shards,
        [["merge", tmp_path / "g.partial", "--shard", f"{number}/2"] for number in (1, 2)],
    ):
        for process in [started(command) for command in commands]:
            _, said = process.communicate()
            assert process.returncode == 0, said
    done(["merge", tmp_path / "g.partial"])
    assert_same_guard(tmp_path / "single", tmp_path / "g")


def test_a_merge_that_stopped_goes_on_with_what_it_had_joined(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"blue": 1, "green": 2, "red": 0}))
    out, partial = tmp_path / "g", tmp_path / "g.partial"
    arguments = fit_arguments(pictures, out, "--class-map", tmp_path / "map.json")
    for number in (1, 2):
        done([*arguments, "--shard", f"{number}/2"])
    result = run("merge", partial)
    assert result.exit_code == 1
    assert "no better than chance" in result.stderr
    assert not out.exists()
    shutil.rmtree(partial / "parts")
    done(["merge", partial, "--allow-low-agreement"])
    single = out.rename(tmp_path / "single")
    done([*arguments, "--allow-low-agreement"])
    assert_same_guard(single, out)


def test_a_fit_without_shards_leaves_a_job_of_shards_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the job was there before it or was begun meanwhile."""
    arguments, partial = fit_arguments(pictures, tmp_path / "g"), tmp_path / "g.partial"
    check = FitRun.check_unshared

    def passed_before_a_shard_begins(run: FitRun) -> None:
        check(run)
        done([*arguments, "--shard", "2/3"])

    with monkeypatch.context() as patched:
        patched.setattr(FitRun, "check_unshared", passed_before_a_shard_begins)
        done(arguments)
    before = sorted(partial.rglob("*"))
    assert {partial / "job.json", partial / "parts" / "training-2-of-3"} <= set(before)
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"holds a fit in 3 shards: run `neroli merge {partial}`" in result.stderr
    assert sorted(partial.rglob("*")) == before


def test_every_shard_is_named_of_which_any_part_is_missing(pictures: Path, tmp_path: Path) -> None:
    arguments, partial = fit_arguments(pictures, tmp_path / "g"), tmp_path / "g.partial"
    for number in (1, 2, 3):
        done([*arguments, "--shard", f"{number}/3"])
    shutil.rmtree(partial / "parts" / "calibration-1-of-3")
    shutil.rmtree(partial / "parts" / "training-3-of-3")
    result = run("merge", partial)
    assert result.exit_code == 1
    assert "Shards 1 and 3 of 3 are missing, or the training and calibration" in result.stderr
    assert "--shard 1/3 and --shard 3/3" in result.stderr


def test_a_round_takes_only_the_part_of_the_images_that_are_there(
    pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "p")
    arguments, partial = fit_arguments(tmp_path / "p", tmp_path / "g"), tmp_path / "g.partial"
    done([*arguments, "--shard", "1/2"])
    images = sorted((tmp_path / "p" / "train").rglob("*.png"))
    shutil.copy(images[-1], images[0])
    for number in (1, 2):  # the one of other images, the other never extracted
        result = run("merge", partial, "--shard", f"{number}/2")
        assert result.exit_code == 1
        assert f"Shard {number} of 2 is missing, or the training images" in result.stderr
        assert f"run the same `neroli fit` with --shard {number}/2." in result.stderr
    assert not list(partial.glob("pass-*"))
    done([*arguments, "--shard", "1/2"])
    done(["merge", partial, "--shard", "1/2"])


def test_only_one_process_merges_at_a_time(pictures: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "g", tmp_path / "g.partial"
    done([*fit_arguments(pictures, out), "--shard", "1/1"])
    with locked(partial, "merge of"):
        result = run("merge", partial)
    assert result.exit_code == 1
    assert f"Another process is writing the merge of '{partial}': wait" in result.stderr
    assert not out.exists()
    done(["merge", partial])
    assert not partial.exists()


def test_a_round_says_what_is_left(pictures: Path, tmp_path: Path) -> None:
    """The detector takes one pass, and one compares predictions with labels."""
    partial = tmp_path / "g.partial"
    arguments = fit_arguments(pictures, tmp_path / "g", "--detector", "energy")
    for number in (1, 2, 3):
        done([*arguments, "--shard", f"{number}/3"])
    said = [
        done(["merge", partial, "--shard", f"{number}/3"]).stdout
        for _ in range(2)
        for number in (1, 2, 3)
    ]
    assert said[0] == "Gathered pass 1 on shard 1/3; 2 shards have not yet.\n"
    assert said[1] == "Gathered pass 1 on shard 2/3; 1 shard has not yet.\n"
    assert said[2].endswith("on shard 3/3, as on all others: go on with the next round.\n")
    assert said[5].endswith(f"as on all others. No pass is left: neroli merge {partial}\n")


@pytest.mark.parametrize("more", [[], ["--shard", "1/2"]], ids=["whole", "shard"])
def test_a_fit_that_cannot_be_compiled_leaves_nothing_on_disk(
    more: list[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = run(*fit_arguments(pictures, tmp_path / "g", "--compile", *more))
    assert result.exit_code == 1
    assert "needs a C++ compiler" in result.stderr
    assert not list(tmp_path.iterdir())
