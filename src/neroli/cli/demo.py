"""``neroli demo``: the main job on data that ships with scikit-learn."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import Json, emit, reported

if TYPE_CHECKING:
    from neroli.demo import DemoResult


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the guard, the picture and the report.")
    ] = Path("demo-out"),
    as_json: Json = False,
) -> None:
    """Train a small digit classifier, guard it, and show what it makes of images it never saw."""
    with reported(as_json):
        from neroli.demo import run

        result = run(out, say=lambda text: print(text, file=sys.stderr))
        facts: dict[str, Any] = asdict(result)
        facts |= {name: str(facts[name]) for name in ("guard", "picture", "report", "explanation")}
        emit(as_json, facts, lambda: _text(result))


def _text(result: DemoResult) -> str:
    sets = list(dict.fromkeys(row.ood_set for row in result.rows))
    header = f"{'':<10}" + "".join(f"{name:^26}" for name in sets) + f"{'digits 0-6':>12}"
    under = f"{'detector':<10}" + f"{'AUROC':>8}{'FPR95':>8}{'flagged':>10}" * len(sets)
    lines = [header, under + f"{'flagged':>12}"]
    for detector, flagged in result.flagged_id.items():
        cells = "".join(
            f"{row.auroc:8.1%}{row.fpr95:8.1%}{row.flagged:10.1%}"
            for row in result.rows
            if row.detector == detector
        )
        lines.append(f"{detector:<10}{cells}{flagged:12.1%}")
    return (
        "A classifier of handwritten digits 0 to 6 meets images of other kinds "
        f"(test accuracy {result.test_accuracy:.1%}).\n\n"
        + "\n".join(lines)
        + f"\n\nPromised for every detector: {result.promise} (last column, "
        f"{result.test_images} test images).\n"
        "ensemble is the default: CADRef, LINe, relative Mahalanobis and ViM together.\n"
        "No detector is best on all images and networks: compare them on yours.\n"
        f"Guard saved in {result.guard}, picture of the scores in {result.picture}.\n"
        f"Why one image of each kind was flagged, or was not: {result.report}."
    )
