"""Records when things go wrong: killed, full, damaged, too new, closed."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neroli.errors import InvalidInput, RecordsError
from neroli.serve.database import Database
from neroli.serve.filters import Filters
from recorded import opened, scored

WRITER = """
import os, sys, threading
from pathlib import Path
from recorded import opened, scored

def say(*words):
    os.write(1, "".join(f"{word}\\n" for word in words).encode())

def work(records):
    while True:
        some = [scored() for _ in range(3)]
        records.add(some)
        say(*(one.id for one in some))

for _ in sys.stdin:
    if (child := os.fork()) == 0:  # to import everything anew would take seconds
        say(os.getpid())
        records = opened(Path(sys.argv[1]))
        for _ in range(2):
            threading.Thread(target=work, args=(records,)).start()
        work(records)
    os.waitpid(child, 0)
    say("", "killed")
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    draw = random.Random(0)
    acknowledged: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    ) as writers:
        assert writers.stdin is not None and writers.stdout is not None
        for _ in range(6):
            writers.stdin.write("write\n")
            writers.stdin.flush()
            writer = int(writers.stdout.readline())
            lines = [writers.stdout.readline() for _ in range(draw.randrange(1, 60))]
            os.kill(writer, signal.SIGKILL)
            lines += iter(writers.stdout.readline, "killed\n")
            acknowledged |= {line.strip() for line in lines if len(line) == 33}
        writers.stdin.close()
    records = opened(tmp_path)
    found, after = set(), None
    while True:
        page = records.queue(Filters(order="oldest"), size=1000, after=after)
        found |= {record.id for record in page.records}
        if (after := page.next) is None:
            break
    assert len(acknowledged) > 6 and acknowledged <= found
    assert len(found) % 3 == 0  # an add is recorded as a whole
    assert records.decisions().images == len(found)
    rows = [row for row, _, _ in records.p_values()]
    assert rows == list(range(1, len(found) + 1))


def test_a_commit_reaches_the_disk_before_an_add_returns(tmp_path: Path) -> None:
    from neroli.serve.schema import open_writer

    connection = open_writer(tmp_path / "records.sqlite")
    pragmas = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "auto_vacuum", "secure_delete")
    }
    full, incremental = 2, 2
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": full,
        "auto_vacuum": incremental,
        "secure_delete": 1,
    }


def test_a_full_disk_is_one_error_leaves_nothing_half_written_and_passes(tmp_path: Path) -> None:
    records = opened(tmp_path, keep_images=True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))
    first = scored()
    records.add([first], [noise])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # files cannot grow further
    try:
        with pytest.raises(RecordsError, match="is the disk full"):  # noqa: PT012
            for _ in range(20):
                records.add([scored(), scored()], [noise, noise])
        whole = records.decisions().images
        assert whole == len(list(records.p_values())) and whole % 2 == 1
        with pytest.raises(RecordsError):
            records.add([scored()] * 1, [Image.effect_noise((999, 999), 90)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    records.add([scored(), scored()], [noise, noise])
    assert records.decisions().images == whole + 2
    assert [row for row, _, _ in records.p_values()] == list(range(1, whole + 3))


def test_files_that_are_no_records_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    path.write_bytes(b"not a database, but longer than the header of one" * 50)
    with pytest.raises(RecordsError, match="damaged"):
        opened(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(RecordsError, match="something else"):
        opened(tmp_path)
    assert path.read_bytes() == before
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordsError, match="directory"):
        opened(tmp_path)


def test_newer_records_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(RecordsError, match="format 7.*update neroli"):
        opened(tmp_path)


def test_damage_inside_is_named_when_it_is_met(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.add([scored() for _ in range(500)])
    records.close()
    path = tmp_path / "records.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(RecordsError, match="damaged"):
        list(opened(tmp_path).p_values())


def test_room_for_next_to_nothing_is_none(tmp_path: Path) -> None:
    records = opened(tmp_path, keep_images=True)
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    left = (tmp_path / "records.sqlite-wal").stat().st_size + 20_000  # some pages of the log
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))
    try:
        for check in (
            lambda: records.add([scored()], [Image.fromarray(noise)]),
            records.check_writable,
        ):
            with pytest.raises(RecordsError, match="is the disk full"):
                check()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    records.check_writable()
    assert records.load_state("written") is None  # what was tried is not kept
    records.close()


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_records_that_are_no_longer_in_their_place_are_neither_written_nor_read(
    tmp_path: Path, how: str
) -> None:
    records = opened(tmp_path)
    first, second = scored(), scored()
    records.add([first])
    path, aside = tmp_path / "records.sqlite", tmp_path / "aside.sqlite"
    if how == "deleted":
        path.unlink()
    else:
        path.rename(aside)
    if how == "replaced":
        shutil.copy(aside, path)
    before = sorted(tmp_path.iterdir())
    for call in (
        lambda: records.add([second]),
        lambda: records.get(first.id),
        records.decisions,
        records.check_writable,
    ):
        with pytest.raises(RecordsError, match="moved, deleted or replaced"):
            call()
    assert sorted(tmp_path.iterdir()) == before  # nothing is made in its place
    if how == "moved":
        aside.rename(path)
        records.check_writable()
        records.add([second])
        assert records.get(first.id).row == 1 and records.get(second.id).row == 2
    records.close()


def test_all_who_wait_for_a_write_that_fails_fail_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = opened(tmp_path)
    records._database._writer.execute("PRAGMA busy_timeout = 200")
    other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commits: list[int] = []
    commit, begun, waiting = Database._commit, threading.Event(), threading.Event()

    def counted(database: Database, changes: list[Any]) -> None:
        commits.append(len(changes))
        begun.set()
        waiting.wait(20)
        commit(database, changes)

    monkeypatch.setattr(Database, "_commit", counted)
    errors: list[RecordsError] = []

    def add() -> None:
        try:
            records.add([scored()])
        except RecordsError as error:
            errors.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(records._database._waiting) < 3:
        time.sleep(0.01)
    waiting.set()
    for thread in threads:
        thread.join()
    assert commits == [1]
    assert [str(error) for error in errors] == [str(errors[0])] * 4
    assert "Another process is writing" in str(errors[0])
    with pytest.raises(RecordsError, match="Another process is writing"):
        records.check_writable()
    other.execute("ROLLBACK")
    records.check_writable()
    records.add([scored()])
    assert records.decisions().images == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "records.sqlite").chmod(0o400)
    with pytest.raises(RecordsError, match="Cannot write"):
        opened(tmp_path)


def test_a_refused_add_does_not_disturb_those_that_share_its_commit(tmp_path: Path) -> None:
    records = opened(tmp_path)
    first = scored()
    records.add([first])
    outcomes: dict[int, bool] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        try:
            records.add([first if number % 2 else scored()])
            outcomes[number] = True
        except InvalidInput:
            outcomes[number] = False

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {number: number % 2 == 0 for number in range(8)}
    assert [row for row, _, _ in records.p_values()] == [1, 2, 3, 4, 5]


def test_closed_records_refuse(tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.close()
    for call in (lambda: records.add([scored()]), lambda: records.get("x")):
        with pytest.raises(RecordsError, match="closed"):
            call()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    records = opened(tmp_path)
    one = scored()
    records.add([one])
    other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE record SET note = 'unfinished'")
    assert records.get(one.id).note == ""
    other.execute("ROLLBACK")
