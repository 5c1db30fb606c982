"""Fit and score on a Ray cluster that really runs, with actors and drivers that die."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from neroli.cli import app

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    # a thread of Ray's ends so when a run does that still waits for something
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="an actor and a reader need two CPUs"),
]

TESTS = Path(__file__).parents[1]
NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster on 127.0.0.1 is to be found there
    "RAY_AUTH_MODE": "disabled",  # or Ray writes a token to the home folder
}
NETWORK = """
import os, time
from pathlib import Path
from networks import colour_network

HERE, DRIVER = Path(__file__).parent, {driver}

def network():
    made = colour_network()
    made.register_forward_pre_hook(before)
    return made

def before(*_):
    if os.getpid() != DRIVER:
        with (HERE / "batches").open("a") as file:
            file.write("batch\\n")
        {misbehaviour}
"""
"""A module of a user's, whose network misbehaves in actors."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that neroli started, and that is gone in the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        head = subprocess.Popen(
            [sys.executable, TESTS / "scale" / "ray_head.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert head.stdin is not None and head.stdout is not None
        yield head.stdout.readline().strip()
        left = descendants(head.pid)
        head.stdin.close()
        assert head.wait(60) == 0
        assert left
        wait_for(lambda: not any(map(is_alive, left)))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour pictures, one of each kind unreadable."""
    root = tmp_path_factory.mktemp("images") / "images"
    shutil.copytree(pictures, root)
    for broken in ("train/green/0040.png", "calibration/0020.png", "new/0012.png"):
        (root / broken).write_bytes(b"no picture")
    return root


def fitted(images: Path, out: Path, *more: object) -> Path:
    model = ["--model", "networks:colour_network", "--weights", images / "weights.safetensors"]
    data = ["--train", images / "train", "--calibration", images / "calibration"]
    result = run("fit", *model, *data, *NORMALISE, "--out", out, "--json", *more)
    assert result.exit_code == 3, result.stderr
    assert len(json.loads(result.stdout)["unreadable"]) == 2
    return out


@pytest.fixture(scope="module")
def guard(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(images, tmp_path_factory.mktemp("guards") / "guard")


@pytest.fixture(scope="module")
def table(guard: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> pyarrow.Table:
    """The scores that this process computes, in batches as large as the blocks below."""
    out = tmp_path_factory.mktemp("tables") / "scores.parquet"
    assert run("score", guard, images / "new", "--out", out, "--batch-size", 6).exit_code == 3
    return pyarrow.parquet.read_table(out)


@pytest.fixture
def scoring(
    guard: Path, images: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[object]]:
    """Commands that score on the cluster, with a network that misbehaves as told."""
    name = f"network_of_{tmp_path.name}"  # modules of one name are loaded once
    monkeypatch.syspath_prepend(tmp_path)

    def command(misbehaviour: str, *more: object) -> list[object]:
        text = NETWORK.format(driver=os.getpid(), misbehaviour=misbehaviour)
        (tmp_path / f"{name}.py").write_text(text)
        model = ["--model", f"{name}:network", "--weights", images / "weights.safetensors"]
        on_ray = ["--engine", "ray", "--address", cluster, "--actors", 1, "--block-size", 6]
        out = tmp_path / "scores.parquet"
        return ["score", guard, images / "new", "--out", out, *model, *on_ray, *more]

    return command


def assert_same(out: Path, table: pyarrow.Table) -> None:
    """The rows of a local run, each once and in order; nothing else is left."""
    found = pyarrow.parquet.read_table(out / "scores.parquet")
    assert len(found) == 40
    for column in ("id", "name", "predicted_class", "predicted_name", "is_ood", "error"):
        assert found[column] == table[column]
    for column in ("score", "p_value"):
        numbers = [
            torch.tensor([x if x is not None else -1.0 for x in t[column].to_pylist()])
            for t in (found, table)
        ]
        torch.testing.assert_close(*numbers, rtol=1e-5, atol=1e-6)
    assert not [path for path in out.iterdir() if path.name.startswith("scores.parquet.")]


def test_a_fit_on_ray_is_the_local_one(cluster: str, images: Path, tmp_path: Path) -> None:
    # half precision, so that actors that ran it otherwise were noticed; the same batches in both
    half = ["--precision", "bfloat16", "--batch-size", 10]
    here = fitted(images, tmp_path / "here", *half)
    on_ray = ["--engine", "ray", "--address", cluster, "--block-size", 50]
    there = fitted(images, tmp_path / "there", *half, *on_ray)
    one, two = (json.loads((guard / "manifest.json").read_text()) for guard in (here, there))
    assert one["classifier"] == two["classifier"]
    assert one["training"]["images"] == two["training"]["images"] == 119
    assert one["calibration"]["threshold"] == pytest.approx(two["calibration"]["threshold"])
    states = [load_file(next(guard.glob("state-*"))) for guard in (here, there)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_blocks_of_an_actor_that_is_killed_are_worked_on_by_another(
    scoring: Callable[..., list[object]], table: pyarrow.Table, tmp_path: Path
) -> None:
    kill = "len((HERE / 'batches').read_text().split()) != 3 or os.kill(os.getpid(), 9)"
    result = run(*scoring(kill, "--json"))
    assert result.exit_code == 3, result.stderr
    assert re.search(r"warning: The process that worked on block \d died on", result.stderr)
    assert json.loads(result.stdout)["images"] == 40
    assert_same(tmp_path, table)


def test_a_run_whose_driver_was_killed_goes_on_where_it_stopped(
    scoring: Callable[..., list[object]], table: pyarrow.Table, tmp_path: Path
) -> None:
    command = scoring("(HERE / 'again').exists() or time.sleep(1)")
    driver = subprocess.Popen(
        [sys.executable, "-m", "neroli", *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*sys.path, TESTS, tmp_path]))},
    )
    blocks = tmp_path / "scores.parquet.blocks"
    wait_for(lambda: len(list(blocks.glob("*.parquet"))) >= 2)
    assert actors()
    driver.send_signal(signal.SIGKILL)
    assert driver.wait(60) == -signal.SIGKILL
    wait_for(lambda: not actors())
    (tmp_path / "again").touch()
    for block in blocks.glob("*.parquet"):  # marked, to be known again
        rows = pyarrow.parquet.read_table(block)
        marks = pyarrow.array([f"kept {block.stem}"] * len(rows))
        pyarrow.parquet.write_table(rows.set_column(0, rows.schema.field("id"), marks), block)
    result = run(*command)
    assert result.exit_code == 3, result.stderr
    found = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    kept = [identity for identity in found["id"].to_pylist() if identity and "kept" in identity]
    assert 12 <= len(kept) < 39
    assert set(kept[:6]) == {"kept 000000"}
    assert found["name"] == table["name"]
    assert found["predicted_class"] == table["predicted_class"]


def test_a_run_in_which_nothing_happens_ends_and_says_what_was_waited_for(
    scoring: Callable[..., list[object]],
) -> None:
    result = run(*scoring("time.sleep(600)", "--stall-after", 3))
    assert result.exit_code == 1
    assert "No block was finished for 3 s, 0 of 7 are: 1 actor of 1 CPU was asked" in result.stderr
    assert "the same command goes on" in result.stderr


def test_a_pool_that_would_take_every_cpu_is_refused(
    scoring: Callable[..., list[object]], tmp_path: Path
) -> None:
    cpus = os.cpu_count()
    result = run(*scoring("pass", "--actor-cpus", cpus))
    assert result.exit_code == 1
    assert f"1 actor of {cpus} CPU was asked for, but none can be had" in result.stderr
    assert not (tmp_path / "batches").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_reported_and_only_this_machine_can_connect(cluster: str) -> None:
    processes = descendants(os.getpid())
    gcs = [pid for pid in processes if "gcs_server" in of_process(pid, "cmdline").split("\0")[0]]
    assert len(gcs) == 1
    mine = descendants(int(of_process(gcs[0], "stat").rpartition(")")[2].split()[1]))
    # others write their titles over theirs
    assert "RAY_USAGE_STATS_ENABLED=0" in of_process(gcs[0], "environ").split("\0")
    addresses = {address for pid in mine for address in listened_to(pid)}
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1


def test_what_the_user_gets_wrong_is_one_sentence(
    guard: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = ["score", guard, images / "new", "--out", tmp_path / "s.csv"]
    for options, said in [
        (["--engine", "spark"], "--engine takes local, ray or torchrun, got 'spark'"),
        (["--actors", 2], "--actors is an option of --engine ray"),
        (["--engine", "ray", "--device", "cuda:1"], "say --device cuda, not cuda:1"),
        (["--engine", "ray", "--actor-gpus", 0.5], "GPUs need --device cuda"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1'"),
    ]:
        result = run(*scores, *options)
        assert result.exit_code == 1
        assert said in result.stderr
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run(*scores, "--engine", "ray")
    assert result.exit_code == 1
    assert "--engine ray needs Ray: install neroli with its [ray] extra" in result.stderr
    assert list(tmp_path.iterdir()) == []


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def of_process(pid: int, what: str) -> str:
    """A file of a process below /proc; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    children = [int(child) for child in of_process(pid, f"task/{pid}/children").split()]
    return children + [below for child in children for below in descendants(child)]


def actors() -> list[int]:
    """The processes that work on blocks, which Ray Data gives such a title."""
    titles = {pid: of_process(pid, "cmdline") for pid in descendants(os.getpid())}
    return [pid for pid, title in titles.items() if re.match(r"ray::.*MapWorker", title)]


def is_alive(pid: int) -> bool:
    return of_process(pid, "stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def listened_to(pid: int) -> Iterator[str]:
    """The addresses, in hexadecimal, at which a process waits for connections."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(file))
    for kind in ("net/tcp", "net/tcp6"):
        for line in of_process(pid, kind).splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                yield fields[1].partition(":")[0]
