"""What is killed while it deletes what it needed on the way goes on, and leaves nothing."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from guards import assert_same_guard, done, fit_arguments, run
from interruptions import Killed, killed_at
from neroli.cli import fit_run
from neroli.files import LOCK, is_free, remove_own
from neroli.scale.blocks import BlockFolder


def test_a_folder_is_neroli_s_own_until_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "s.parquet.partial"
    for number in range(1, 20):
        folder.mkdir(exist_ok=True)
        for name in ("0.parquet", "key", "z.parquet", LOCK):
            (folder / name).write_text("x")
        (folder / "block").mkdir(exist_ok=True)
        for name in ("head.safetensors", "store.json", LOCK):
            (folder / "block" / name).write_text("x")
        with suppress(Killed), killed_at(number):
            remove_own(folder)
            break
        assert is_free(folder, "key", "")
        assert is_free(folder / "block", "store.json", "schema_version")
    assert not folder.exists()


def test_scoring_that_was_killed_at_any_step_on_disk_goes_on_and_leaves_nothing(
    pictures: Path, tmp_path: Path
) -> None:
    done(fit_arguments(pictures, tmp_path / "g"))
    command = ["score", tmp_path / "g", pictures / "calibration", "--out"]
    done([*command, tmp_path / "expected.jsonl"])
    folder = tmp_path / "scores"
    for number in range(1, 40):
        folder.mkdir()
        with suppress(Killed), killed_at(number) as steps:
            done([*command, folder / "s.jsonl"])
        done([*command, folder / "s.jsonl"])
        assert [path.name for path in folder.iterdir()] == ["s.jsonl"]
        assert (folder / "s.jsonl").read_text() == (tmp_path / "expected.jsonl").read_text()
        shutil.rmtree(folder)
        if len(steps) < number:
            break
    assert 5 < number < 39


def test_a_merge_that_was_killed_while_clearing_goes_on_and_leaves_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial, begun = tmp_path / "g", tmp_path / "g.partial", tmp_path / "begun"
    for number in (1, 2):
        done([*fit_arguments(pictures, out, "--detector", "energy"), "--shard", f"{number}/2"])
    for number in (1, 2):
        done(["merge", partial, "--shard", f"{number}/2"])
    shutil.copytree(partial, begun)
    clear, numbers = fit_run.FitRun._clear, iter(range(1, 100))

    def killed(self: fit_run.FitRun) -> None:
        with killed_at(next(numbers)):
            clear(self)

    kinds = set()
    while True:
        with suppress(Killed), monkeypatch.context() as patched:
            patched.setattr(fit_run.FitRun, "_clear", killed)
            done(["merge", partial])
            break
        single = out.rename(tmp_path / "single")
        result = run("merge", partial, "--json")
        if not (merged := partial / "merged.json").exists() and result.exit_code == 1:
            assert "merged already" in result.stderr
            assert not partial.exists() or not list(partial.iterdir())
            kinds.add("gone")
        else:
            assert result.exit_code == 0, result.stderr
            facts = json.loads(result.stdout)
            kinds.add("cleared" if "merged_already" in facts else "again")
            if "merged_already" not in facts:
                assert_same_guard(single, out)
        assert not merged.exists()
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(begun, partial)
        shutil.rmtree(single)
    assert {"cleared", "again"} <= kinds
    assert not partial.exists()


def test_a_fit_that_was_killed_while_clearing_goes_on_and_leaves_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "g", tmp_path / "g.partial"
    command = fit_arguments(pictures, out, "--detector", "energy")
    done(command)
    single = out.rename(tmp_path / "single")
    clear = fit_run.FitRun._clear
    for number in range(1, 40):

        def killed(self: fit_run.FitRun, number: int = number) -> None:
            with killed_at(number):
                clear(self)

        with suppress(Killed), monkeypatch.context() as patched:
            patched.setattr(fit_run.FitRun, "_clear", killed)
            done(command)
            break
        done(command)
        assert_same_guard(single, out)
        assert not partial.exists()
    assert 8 < number < 39


def test_blocks_that_were_being_deleted_do_not_stop_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "s.parquet.blocks"
    for number in range(1, 9):
        with BlockFolder(folder, "key") as blocks:
            (folder / "000000.parquet").write_text("x")
            (folder / "000001").mkdir(exist_ok=True)
            try:
                with killed_at(number):
                    blocks.remove()
            except Killed:
                continue
            break
    assert not folder.exists()
