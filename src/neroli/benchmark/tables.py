"""A benchmark's results as files: everything as JSON, a tidy table, and Markdown to paste."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from neroli.benchmark import wording
from neroli.benchmark.results import Results, Row, SetFacts, Tuning
from neroli.explain.facts import plain
from neroli.files import atomic_path

SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("label", pa.string()),
        ("detector", pa.string()),
        ("hyperparameters", pa.string()),
        ("tuned", pa.bool_()),
        ("ood_set", pa.string()),
        ("nearness", pa.string()),
        ("ood_images", pa.int64()),
        ("id_images", pa.int64()),
        ("auroc", pa.float64()),
        ("auroc_low", pa.float64()),
        ("auroc_high", pa.float64()),
        ("fpr95", pa.float64()),
        ("fpr95_low", pa.float64()),
        ("fpr95_high", pa.float64()),
        ("aupr_in", pa.float64()),
        ("aupr_out", pa.float64()),
        ("flagged", pa.float64()),
        ("mean_auroc", pa.float64()),
        ("mean_fpr95", pa.float64()),
        ("mean_rank", pa.float64()),
        ("behind_best", pa.float64()),
        ("as_good_as_best", pa.bool_()),
        ("flagged_id", pa.float64()),
        ("train_test_auroc", pa.float64()),
        ("memorises", pa.bool_()),
        ("fit_seconds", pa.float64()),
        ("score_seconds_per_1000_images", pa.float64()),
        ("state_bytes", pa.int64()),
        ("network_ratio", pa.float64()),
    ]
)
"""One row a detector and OOD set; fractions as in the JSON, hyper-parameters as JSON.

What is known of a detector over all sets, from ``mean_auroc`` on, is repeated on each of its rows.
"""
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]|<>&~#$!"})


def write_tables(folder: Path, results: Results) -> None:
    """Write results.json, results.parquet, results.csv and results.md, each atomically.

    Raises:
        ArtefactError: if the folder cannot be written to.
    """
    table = pa.Table.from_pylist(
        [
            _record(results, row, each)
            for row in results.rows
            for each in results.ood_sets
            if each.name in row.sets
        ],
        SCHEMA,
    )
    with atomic_path(folder / "results.json") as path:
        # ASCII, as names of files may hold bytes that are no text
        path.write_text(json.dumps(results.model_dump(mode="json"), indent=2) + "\n")
    with atomic_path(folder / "results.parquet") as path:
        pa.parquet.write_table(table, path)
    with atomic_path(folder / "results.csv") as path:
        pa.csv.write_csv(table, path)
    with atomic_path(folder / "results.md") as path:
        path.write_text(markdown(results), encoding="utf-8")


def markdown(results: Results) -> str:
    """The ranking as a Markdown table, with what is needed to read and repeat it."""
    sets = results.ood_sets
    heads = ["Detector", "Mean", "Near", "Far", *(_set_head(each) for each in sets)]
    heads += ["Behind best", "Rank"]
    lines = [
        f"# {_escaped(results.suite)}",
        "",
        _escaped(" ".join(wording.answer(results))),
        "",
        "AUROC \N{UPWARDS ARROW} in % with its 95 % bootstrap interval / FPR95 \N{DOWNWARDS ARROW} "
        "in %; OOD is the positive class. Behind best: difference of mean AUROC in points, of the "
        "same resamples; = marks those not told apart from the best. Rank: mean over the OOD sets.",
        "",
        _line(heads),
        _line(["---", *["---:"] * (len(heads) - 1)]),
        *(_line(_cells(row, sets)) for row in results.rows),
    ]
    if results.tuning:
        heads = ["Detector", "Published default", "Tuned", "Settings chosen"]
        lines += [
            "",
            "## Tuned without OOD data",
            "",
            "Mean AUROC / FPR95 over the OOD sets, in %, which had no say in the choice.",
            "",
            _line(heads),
            _line(["---"] * len(heads)),
            *(_line(_tuned_cells(results, each)) for each in results.tuning),
        ]
    for title, sentences in (
        ("Problems", wording.problems(results)),
        ("No result", [f"{each.label}: {each.reason}" for each in results.failures]),
        ("Remarks", results.remarks),
    ):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {_escaped(each)}" for each in sentences)]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    lines += [
        "",
        f"Model: {_escaped(results.model.spec)}. Seed {results.seed}, {results.resamples} "
        f"resamples. {_escaped(versions)}. Finished {_escaped(results.finished)}.",
        "",
        *(f"    {line}" for line in plain(results.command).splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _record(results: Results, row: Row, ood: SetFacts) -> dict[str, Any]:
    found, test = row.sets[ood.name], results.facts_of("test")
    return {
        "suite": plain(results.suite),
        "label": plain(row.label),
        "detector": row.detector,
        "hyperparameters": json.dumps(row.hyperparameters, sort_keys=True),
        "tuned": row.tuned,
        "ood_set": plain(ood.name),
        "nearness": ood.nearness,
        "ood_images": ood.images,
        "id_images": None if test is None else test.images,
        "auroc": found.auroc.value,
        "auroc_low": found.auroc.low,
        "auroc_high": found.auroc.high,
        "fpr95": found.fpr95.value,
        "fpr95_low": found.fpr95.low,
        "fpr95_high": found.fpr95.high,
        "aupr_in": found.aupr_in,
        "aupr_out": found.aupr_out,
        "flagged": found.flagged,
        "mean_auroc": row.mean.auroc.value,
        "mean_fpr95": row.mean.fpr95.value,
        "mean_rank": row.mean_rank,
        "behind_best": None if row.behind_best is None else row.behind_best.value,
        "as_good_as_best": row.as_good_as_best,
        "flagged_id": row.flagged_id,
        "train_test_auroc": row.train_test.value,
        "memorises": row.memorises,
        "fit_seconds": row.cost.fit_seconds,
        "score_seconds_per_1000_images": row.cost.score_seconds,
        "state_bytes": row.cost.state_bytes,
        "network_ratio": row.cost.network_ratio,
    }


def _cells(row: Row, sets: list[SetFacts]) -> list[str]:
    behind = "best"
    if row.behind_best is not None:
        behind = wording.with_limits(row.behind_best) + (" =" if row.as_good_as_best else "")
    return [
        _escaped(row.label),
        *(wording.auroc_fpr95(found) for found in (row.mean, row.near, row.far)),
        *(wording.auroc_fpr95(row.sets.get(each.name)) for each in sets),
        behind,
        f"{row.mean_rank:.1f}",
    ]


def _tuned_cells(results: Results, tuning: Tuning) -> list[str]:
    default, tuned = results.default_of(tuning.detector), results.tuned_of(tuning.detector)
    return [
        _escaped(tuning.detector),
        wording.auroc_fpr95(None if default is None else default.mean),
        "the default stays" if tuned is None else wording.auroc_fpr95(tuned.mean),
        _escaped(wording.settings(tuning.chosen)),
    ]


def _set_head(facts: SetFacts) -> str:
    return _escaped(facts.name) + (f" ({facts.nearness})" if facts.nearness else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text in one line of Markdown that means no markup."""
    return plain(text).translate(_SPECIAL)
