"""``neroli records``: what a server recorded, counted by guard, and as a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from neroli.cli.common import Json, emit, reported


def records(
    path: Annotated[Path, typer.Argument(help="SQLite file of `neroli serve --records`.")],
    out: Annotated[
        Path | None, typer.Option(help="Table to write all to: .parquet, .csv or .jsonl.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a server recorded and what was decided of it; with --out, export it to a table.

    The server may be running.
    """
    with reported(as_json):
        from neroli.errors import RecordsError
        from neroli.serve.decisions import CONFIDENCE
        from neroli.serve.records import Records
        from neroli.serve.settings import Settings

        if not path.is_file():
            raise RecordsError(f"There are no records {str(path)!r}: name the file of the server.")
        opened = Records(path, Settings())
        try:
            found = [opened.decisions(guard) for guard in opened.guards()]
            rows = None if out is None else opened.export(out)
        finally:
            opened.close()
        facts: dict[str, Any] = {
            "guards": [
                {
                    **asdict(each),
                    "observed_false_alarm_rate": each.false_alarm_rate,
                    "interval": each.interval,
                    "confidence": CONFIDENCE,
                    "caveat": each.caveat,
                }
                for each in found
            ],
            "exported": None if out is None else {"table": str(out), "rows": rows},
        }
        emit(as_json, facts, lambda: _text(facts))


def _text(facts: dict[str, Any]) -> str:
    lines = []
    for guard in facts["guards"]:
        decided = guard["flagged_fine"] + guard["flagged_ood"]
        line = (
            f"Guard {guard['guard']}: {guard['images']:,} images scored, {guard['flagged']:,} "
            f"flagged, {decided:,} of these decided"
        )
        if guard["observed_false_alarm_rate"] is not None and decided:
            low, high = guard["interval"]
            line += (
                f"; of ordinary images {guard['observed_false_alarm_rate']:.1%} are flagged "
                f"({low:.1%} to {high:.1%} with {guard['confidence']:.0%} confidence)"
            )
        lines.append(f"{line}. {guard['caveat']}".strip())
    if facts["exported"]:
        lines.append(f"Wrote {facts['exported']['rows']:,} rows to {facts['exported']['table']}.")
    return "\n".join(lines) or "Nothing was recorded so far."
