"""The critical-difference diagram: which mean ranks Nemenyi's test tells apart.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, 2006.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from neroli.benchmark.results import CriticalDifference, Row
from neroli.benchmark.wording import short
from neroli.explain.facts import plain

MOST = 12
"""How many of the best are shown."""
_LONGEST = 30
"""Characters of a name."""
_LEFT, _RIGHT, _TOP, _STEP, _WIDTH = 210, 52, 34, 24, 680


def rank_chart(rows: Sequence[Row], difference: CriticalDifference) -> Markup:
    """The detectors best in mean rank, each with half the critical difference to either side.

    Two of them are told apart where their bars do not overlap. The band is the bar of the best.
    """
    ranked = sorted(rows, key=lambda row: row.mean_rank)
    best, half, shown = ranked[0].mean_rank, difference.distance / 2, ranked[:MOST]
    last = min(float(len(rows)), shown[-1].mean_rank + half)
    first = max(1.0, best - half)
    bottom = _TOP + _STEP * len(shown)

    def at(rank: float) -> float:
        place = (min(last, max(first, rank)) - first) / ((last - first) or 1)
        return round(_LEFT + place * (_WIDTH - _LEFT - _RIGHT), 1)

    parts = [
        Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"></rect>').format(
            at(best - half), _TOP, round(at(best + half) - at(best - half), 1), bottom - _TOP
        )
    ]
    parts += [
        Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"></line>'
            '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
        ).format(at(tick), _TOP, bottom, _TOP - 6, tick)
        for tick in _ticks(first, last)
    ]
    for place, row in enumerate(shown):
        y = _TOP + _STEP * (place + 0.5)
        apart = row.mean_rank - best >= difference.distance
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end"><title>{}</title>{}</text>'
                '<line class="{kind}" x1="{}" x2="{}" y1="{y}" y2="{y}"></line>'
                '<circle class="{kind}" cx="{}" cy="{y}" r="4.5"></circle>'
                '<text x="{}" y="{}">{:.1f}</text>'
            ).format(
                _LEFT - 12,
                y + 4,
                plain(row.label),
                short(row.label, _LONGEST),
                at(row.mean_rank - half),
                at(row.mean_rank + half),
                at(row.mean_rank),
                _WIDTH - _RIGHT + 12,
                y + 4,
                row.mean_rank,
                kind="apart" if apart else "alike",
                y=y,
            )
        )
    said = ", ".join(f"{plain(row.label)} {row.mean_rank:.1f}" for row in shown)
    return Markup(
        '<svg class="chart ranks" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<text x="{}" y="12" text-anchor="middle">mean rank over the OOD sets (1 is best)</text>'
        "</svg>"
    ).format(
        _WIDTH,
        bottom + 8,
        f"Mean ranks: {said}; critical difference {difference.distance:.2f}",
        Markup("").join(parts),
        (_LEFT + _WIDTH - _RIGHT) / 2,
    )


def _ticks(first: float, last: float) -> list[int]:
    """Whole ranks on the axis, ten or so at most."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (last - first) / step <= 12)
    return [rank for rank in range(1, int(last) + 1) if rank >= first and (rank - 1) % step == 0]
