"""Records as tables for others, and who may read them."""

from __future__ import annotations

import csv
import json
import stat
from dataclasses import asdict
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from neroli.errors import InvalidInput
from neroli.serve.records import Records
from recorded import opened, scored


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return opened(tmp_path)


def test_exports_equal_the_records(records: Records, tmp_path: Path) -> None:
    pool = [scored(score=1 / (i + 1), predicted_name=None if i % 2 else "a,b") for i in range(2500)]
    records.add(pool)
    records.decide(pool[5].id, "fine", 'ärger, "sagt" man')
    expected = [asdict(records.get(one.id)) for one in pool]
    assert records.export(tmp_path / "out.parquet") == 2500
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.select(list(expected[0])).to_pylist() == expected
    records.export(tmp_path / "out.csv")
    options = pyarrow.csv.ConvertOptions(
        column_types=table.schema, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    read = pyarrow.csv.read_csv(tmp_path / "out.csv", convert_options=options)
    assert read.to_pylist() == table.to_pylist()


def test_in_csv_no_text_is_a_formula(records: Records, tmp_path: Path) -> None:
    notes = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\tx", "plain =1", ""]
    for note in notes:
        one = scored(predicted_name=note or None)
        records.add([one])
        records.decide(one.id, "fine", note)
    records.export(tmp_path / "out.csv")
    records.export(tmp_path / "out.jsonl")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    safe = [f"'{note}" for note in notes[:5]] + notes[5:]
    assert [row["note"] for row in rows] == [row["predicted_name"] for row in rows] == safe
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["note"] for line in lines] == notes


def test_an_export_is_whole_or_absent(records: Records, tmp_path: Path) -> None:
    assert records.export(tmp_path / "empty.parquet") == 0
    assert len(pyarrow.parquet.read_table(tmp_path / "empty.parquet")) == 0
    with pytest.raises(InvalidInput, match=r"\.xlsx"):
        records.export(tmp_path / "out.xlsx")
    assert sorted(path.suffix for path in tmp_path.iterdir() if "records" not in path.name) == [
        ".parquet"
    ]


def test_only_the_owner_may_read_the_files(records: Records, tmp_path: Path) -> None:
    records.add([scored()])
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("records.sqlite*")}
    assert len(modes) == 3 and set(modes.values()) == {0o600}
    for suffix in ("parquet", "csv", "jsonl"):
        path = tmp_path / f"out.{suffix}"
        records.export(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
