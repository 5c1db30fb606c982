"""Tables of a benchmark: three files that agree, and Markdown that says the same."""

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

import findings
from neroli.benchmark.results import Results
from neroli.benchmark.tables import SCHEMA, markdown, write_tables
from neroli.errors import ArtefactError

EVIL = '<script>|`*\n"RTL \u202e end", [x](y)'
CASES = {
    "usual": findings.results(),
    "one detector": findings.results(1),
    "one set": findings.results(4, {"Textures": "far"}),
    "nobody says how near": findings.results(4, {"Textures": None, "SVHN": None}),
    "hostile": findings.results(3, {EVIL: "near"}, names=[EVIL, EVIL + "2", "x" * 500]),
    "no result": findings.results(2, rows=[], critical_difference=None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_files_agree(tmp_path: Path, case: str) -> None:
    results = CASES[case]
    write_tables(tmp_path, results)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("results.json", "results.csv", "results.parquet", "results.md")
    }
    assert Results.model_validate_json((tmp_path / "results.json").read_text()) == results
    table = parquet.read_table(tmp_path / "results.parquet")
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == len(results.rows) * len(results.ood_sets)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        texts = list(csv.DictReader(file))
    assert len(texts) == len(rows)
    for row, text in zip(rows, texts, strict=True):
        assert list(text) == list(row)
        for name, value in row.items():
            if value is None:
                assert text[name] == ""
            elif isinstance(value, bool):
                assert text[name] == str(value).lower()
            else:
                assert type(value)(text[name]) == value


def test_every_number_stands_where_its_name_says(tmp_path: Path) -> None:
    results = findings.results()
    write_tables(tmp_path, results)
    given = json.loads((tmp_path / "results.json").read_text())
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    by_key = {(row["label"], row["ood_set"]): row for row in rows}
    for one in given["rows"]:
        for name, found in one["sets"].items():
            row = by_key[one["label"], name]
            for metric in ("auroc", "fpr95"):
                assert [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]] == [
                    found[metric][part] for part in ("value", "low", "high")
                ]
            for metric in ("aupr_in", "aupr_out", "flagged"):
                assert row[metric] == found[metric]
            assert row["mean_auroc"] == one["mean"]["auroc"]["value"]
            assert row["mean_fpr95"] == one["mean"]["fpr95"]["value"]
            assert row["train_test_auroc"] == one["train_test"]["value"]
            behind = one["behind_best"]
            assert row["behind_best"] == (behind and behind["value"])
            assert row["as_good_as_best"] == (behind is None or behind["low"] <= 0)
            for metric in ("fit_seconds", "state_bytes"):
                assert row[metric] == one["cost"][metric]
            assert row["score_seconds_per_1000_images"] == one["cost"]["score_seconds"]
            assert json.loads(row["hyperparameters"]) == one["hyperparameters"]
            for fact in ("tuned", "memorises", "flagged_id", "mean_rank", "detector"):
                assert row[fact] == one[fact]
            assert row["nearness"] == findings.SETS[name]
            assert (row["id_images"], row["ood_images"]) == (1000, 1200)


def test_names_that_are_no_text_lose_no_results(tmp_path: Path) -> None:
    results = findings.results(2, {"scans\udcff": "near"}, suite="s\udcfe")
    write_tables(tmp_path, results)
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert {row["ood_set"] for row in rows} == {"scans\\xff"}
    assert json.loads((tmp_path / "results.json").read_text())["suite"] == "s\udcfe"
    assert "scans\\\\xff" in (tmp_path / "results.md").read_text()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="Cannot write"):
        write_tables(tmp_path / "file", findings.results())


def cells(text: str, title: str = "# ") -> list[list[str]]:
    """The table below a heading of a Markdown text, without its second line."""
    (part,) = [p for p in re.split(r"^(?=#)", text, flags=re.MULTILINE) if p.startswith(title)]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in line] for line in split if set(line[0].strip()) != {"-"}]


def test_markdown_shows_the_ranking_in_per_cent() -> None:
    row = findings.row("Best", {"A": 0.88, "B": 0.9}, {"A": "near"})
    behind = findings.estimate(0.02).model_copy(update={"low": -0.0051, "high": 0.0449})
    other = row.model_copy(update={"label": "Other", "behind_best": behind, "mean_rank": 1.5})
    results = findings.results(2, {"A": "near", "B": None}, rows=[row, other])
    head, best, second = cells(markdown(results))
    assert head == ["Detector", "Mean", "Near", "Far", "A (near)", "B", "Behind best", "Rank"]
    on_a = "88.0 (87.4-88.6) / 22.8"
    assert [cell.replace("\N{EN DASH}", "-") for cell in best] == [
        *("Best", "89.0 (88.4-89.6) / 20.9", on_a, "-", on_a, "90.0 (89.4-90.6) / 19.0"),
        *("best", "1.0"),
    ]
    assert second[-2:] == ["2.0 (\N{MINUS SIGN}0.5 to 4.5) =", "1.5"]


@pytest.mark.parametrize("case", CASES)
def test_markdown_is_one_table_whatever_names_are(case: str) -> None:
    results = CASES[case]
    text = markdown(results)
    assert len({len(line) for line in cells(text)}) == 1
    assert len(cells(text)) == 1 + len(results.rows)
    assert not re.search(r"(?<!\\)<script", text) and "\u202e" not in text
    assert "nan" not in text.lower().replace("mahalanobis", "")
    assert f"    {results.command}" in text.splitlines()
    for failed in results.failures:
        assert failed.reason in text
    assert results.remarks[0] in text


def test_markdown_shows_what_was_tuned_beside_the_default() -> None:
    results = CASES["usual"]
    _, (name, default, tuned, settings) = cells(markdown(results), "## Tuned")
    mean = {row.label: f"{100 * row.mean.auroc.value:.1f} (" for row in results.rows}
    assert (name, settings) == ("Mahalanobis", "k=10")
    assert default.startswith(mean["Mahalanobis"])
    assert tuned.startswith(mean["Mahalanobis (tuned)"])


def test_what_cannot_be_used_is_not_written_as_a_number() -> None:
    text = markdown(findings.results(2, rows=[], critical_difference=None))
    assert "No detector gave a result" in text and "ODIN-2: needs gradients" in text
