"""`neroli records` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from neroli.cli import app
from recorded import GUARD, opened, scored


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["records", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    records = opened(tmp_path)
    images = [scored(is_ood=number < 10, p_value=0.01) for number in range(200)]
    records.add(images)
    for image in images[:4]:
        records.decide(image.id, "fine")
    records.decide(images[4].id, "ood", "a polyp")
    records.close()
    return tmp_path / "records.sqlite"


def test_it_counts_what_was_scored_flagged_and_decided(file: Path) -> None:
    result = run(file)
    assert result.exit_code == 0, result.stderr
    # 4 of 5 decided were fine, so about 8 of the 10 flagged: 8 of 198 ordinary images
    assert f"Guard {GUARD}: 200 images scored, 10 flagged, 5 of these decided" in result.stdout
    assert "of ordinary images 4.0% are flagged" in result.stdout
    assert "with 95% confidence" in result.stdout
    assert "only if what was reviewed is like the other 5 flagged" in result.stdout


def test_it_exports_every_record_with_its_decision(file: Path, tmp_path: Path) -> None:
    result = run(file, "--out", tmp_path / "table.parquet", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["exported"]["rows"] == 200
    rows = pyarrow.parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["decision"] for row in rows[:6]] == ["fine"] * 4 + ["ood", None]
    assert rows[4]["note"] == "a polyp"
    assert sum(row["is_ood"] for row in rows) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing.sqlite"], "There are no records"), (["F", "--out", "t.txt"], ".parquet, .csv")],
)
def test_wrong_use_is_said_in_a_sentence(arguments: list[str], message: str, file: Path) -> None:
    result = run(*[str(file) if argument == "F" else argument for argument in arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert not Path("nothing.sqlite").exists()


def test_an_empty_file_of_records_says_so(tmp_path: Path) -> None:
    opened(tmp_path).close()
    assert "Nothing was recorded so far." in run(tmp_path / "records.sqlite").stdout
