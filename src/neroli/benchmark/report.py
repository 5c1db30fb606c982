"""The report of a benchmark: one page of HTML to decide from, without scripts or links out.

Names of detectors, sets, classes and images are other people's text; the templates escape all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from neroli.benchmark import charts, wording
from neroli.benchmark.charts import Curves
from neroli.benchmark.gallery import Gallery
from neroli.benchmark.rank_chart import MOST, rank_chart
from neroli.benchmark.results import Published, Results, Row, SetFacts, Tuning
from neroli.explain import Explanation
from neroli.explain.facts import VerdictBadge, panels, plain
from neroli.explain.page import checked_path, picture_address, templates
from neroli.files import atomic_path

_SIDE = 128
"""Pixels of the longer side of a picture in a gallery."""
_TINY = 64
"""Pictures up to this side keep their pixels; larger ones are stored as JPEG."""
_VIEWS = (
    "what the network was given",
    "where the predicted class was seen",
    "where evidence is unusual",
)
_TOGETHER = 4
"""How many OOD sets stand in one table beside each other."""


def write_bench_report(
    path: Path | str,
    results: Results,
    curves: Mapping[str, Mapping[str, Curves]],
    galleries: Sequence[Gallery] = (),
) -> None:
    """Write a page about a benchmark, atomically.

    Args:
        path: of the page, ending in .html; a file that is there is replaced.
        results: the rows in the order of the page.
        curves: by label of the row and name of the OOD set; without them a chart is left out.
        galleries: in the order of the page.

    Raises:
        InvalidInput: if the path ends in something else.
        ArtefactError: if it cannot be written.
    """
    path = checked_path(path)
    difference = results.critical_difference if len(results.ood_sets) > 1 else None
    known = {
        "results": results,
        "answer": wording.answer(results),
        "problems": wording.problems(results),
        "axis": _axis(results.rows),
        "span_of_ranks": _span([row.mean_rank for row in results.rows]),
        "tables_of_sets": _in_tables(results.ood_sets),
        "best": {
            each.name: max((row.sets[each.name].auroc.value for row in results.rows), default=None)
            for each in results.ood_sets
        },
        "ranks": rank_chart(results.rows, difference) if difference and results.rows else None,
        "ranks_shown": MOST,
        "sets": [_SetCharts.of(each, results.rows, curves) for each in results.ood_sets],
        "galleries": [_Cards.of(gallery) for gallery in galleries],
        "tuning": [_Tuned.of(tuning, results) for tuning in results.tuning],
        "published": [(each, _measured(each, results)) for each in results.published],
        "network": _network_seconds(results),
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in _template().generate(known):
            file.write(part)


@dataclass(frozen=True)
class _SetCharts:
    """The charts of one OOD set: of the best detectors large and together, of the others small."""

    facts: SetFacts
    roc: Markup | None
    best: list[tuple[Row, Markup]]
    others: list[tuple[Row, Markup]]

    @classmethod
    def of(
        cls, facts: SetFacts, rows: Sequence[Row], curves: Mapping[str, Mapping[str, Curves]]
    ) -> _SetCharts:
        known = [
            (row, curves[row.label][facts.name])
            for row in rows
            if facts.name in curves.get(row.label, {})
        ]
        best, others = known[: charts.STYLES], known[charts.STYLES :]
        on = plain(facts.name)

        def title(row: Row, what: str) -> str:
            found = row.sets[facts.name]
            return (
                f"{what} of {plain(row.label)} on {on}: AUROC {wording.percent(found.auroc.value)}"
                f"%, FPR95 {wording.percent(found.fpr95.value)}%"
            )

        return cls(
            facts,
            charts.roc_chart([each for _, each in best], f"ROC curves on {on}") if best else None,
            [(row, charts.distribution_chart(each, title(row, "Scores"))) for row, each in best],
            [(row, charts.small_charts(each, title(row, "Curves"))) for row, each in others],
        )


@dataclass(frozen=True)
class _Card:
    """One image of a gallery."""

    name: str
    predicted: str
    badge: VerdictBadge
    score: float
    p_value: float
    summary: str
    pictures: list[tuple[str, str]]
    tiny: bool

    @classmethod
    def of(cls, explanation: Explanation) -> _Card:
        picture = explanation.picture
        name, tiny = plain(explanation.name), max(picture.shape[:2]) <= _TINY

        def address(pixels: np.ndarray[Any, Any]) -> str:
            return picture_address(pixels, _SIDE, exact=tiny)

        return cls(
            name=name,
            predicted=plain(explanation.predicted_name),
            badge=VerdictBadge.of(explanation),
            score=explanation.score,
            p_value=explanation.p_value,
            summary=plain(explanation.summary),
            pictures=[
                (f"{name}: {what}", address(panel.picture))
                for what, panel in zip(_VIEWS, panels(explanation), strict=False)
            ],
            tiny=tiny,
        )


@dataclass(frozen=True)
class _Cards:
    """A gallery as it is shown."""

    set_name: str
    detector: str
    groups: list[tuple[str, list[_Card]]]

    @classmethod
    def of(cls, gallery: Gallery) -> _Cards:
        groups = [("most", gallery.most), ("least", gallery.least)]
        return cls(
            gallery.set_name,
            gallery.detector,
            [(kind, list(map(_Card.of, images))) for kind, images in groups if images],
        )


@dataclass(frozen=True)
class _Tuned:
    """A search, and the rows of the published default and of what it chose."""

    tuning: Tuning
    default: Row | None
    chosen: Row | None
    objective: float | None
    """Of the choice."""

    @classmethod
    def of(cls, tuning: Tuning, results: Results) -> _Tuned:
        return cls(
            tuning,
            results.default_of(tuning.detector),
            results.tuned_of(tuning.detector),
            next((t.objective for t in tuning.trials if t.settings == tuning.chosen), None),
        )


def _measured(published: Published, results: Results) -> Row | None:
    """Our own result with the paper's settings where a row has these, else with the defaults."""
    own = [row for row in results.rows if row.detector == published.detector and not row.tuned]
    return next((row for row in own if row.label != row.detector), next(iter(own), None))


def _span(values: Sequence[float]) -> float:
    return max(values, default=0.0) - min(values, default=0.0)


def _axis(rows: Sequence[Row]) -> tuple[float, float]:
    """Of mean AUROC: from the next ten per cent below all intervals."""
    lowest = min((row.mean.auroc.low for row in rows), default=0.0)
    return min(0.9, int(10 * lowest) / 10), 1.0


def _in_tables(sets: Sequence[SetFacts]) -> list[Sequence[SetFacts]]:
    return [sets[start : start + _TOGETHER] for start in range(0, len(sets), _TOGETHER)]


def _network_seconds(results: Results) -> float | None:
    """What the network takes for 1,000 images; None if it did not run."""
    forward = results.forward
    return 1000 * forward.seconds / forward.images if forward.images else None


@cache
def _template() -> Template:
    environment = templates("neroli.benchmark")
    environment.filters |= {
        "percent": wording.percent,
        "limits": wording.limits,
        "settings": wording.settings,
        "counted": wording.counted,
        "short": wording.short,
        "size": wording.size,
    }
    environment.globals |= {"interval_mark": charts.interval_mark, "sample": charts.sample}
    return environment.get_template("bench.html")
