"""Charts: the numbers behind them are those of the scores, and they are well-formed pictures."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score, roc_curve

import findings
from neroli.benchmark.charts import (
    Curves,
    distribution_chart,
    interval_mark,
    roc_chart,
    sample,
    small_charts,
)
from neroli.benchmark.rank_chart import MOST, rank_chart
from neroli.benchmark.results import CriticalDifference
from neroli.errors import InvalidInput

DRAW = np.random.default_rng(0)
CASES = {
    "apart": (DRAW.normal(0, 1, 900), DRAW.normal(1, 2, 700)),
    "tied": (DRAW.integers(0, 5, 900), DRAW.integers(1, 7, 700)),
    "far": (DRAW.normal(0, 1, 50), DRAW.normal(90, 1, 50)),
    "all equal": (np.full(40, 3.0), np.full(30, 3.0)),
    "all zero": (np.zeros(4), np.zeros(3)),
    "one each": (np.array([1.0]), np.array([2.0])),
    "negative": (DRAW.normal(-1e6, 10, 900), DRAW.normal(-1e6, 30, 700)),
    "far from zero": (DRAW.normal(1e7, 0.1, 900), DRAW.normal(1e7, 0.1, 700)),
    "hundreds": (DRAW.normal(-100, 200, 900), DRAW.normal(100, 200, 700)),
    "tiny": (DRAW.normal(0, 1e-30, 90), DRAW.normal(1e-30, 1e-30, 70)),
    "outlier": (np.append(DRAW.normal(0, 1, 999), 1e12), DRAW.normal(2, 1, 999)),
}


@pytest.mark.parametrize("case", CASES)
def test_curves_are_those_of_the_scores(case: str) -> None:
    inside, outside = CASES[case]
    curves = Curves.of(inside, outside, 1.0)
    assert len(curves.edges) == 33 and (np.diff(curves.edges) > 0).all()
    assert curves.id_share.sum() == pytest.approx(1) == curves.ood_share.sum()
    assert len(curves.false_alarms) <= 64
    exact = roc_curve(
        np.repeat([0, 1], [len(inside), len(outside)]),
        np.concatenate([inside, outside]),
        drop_intermediate=False,
    )
    points = {(round(x, 9), round(y, 9)) for x, y in zip(*exact[:2], strict=True)}
    kept = zip(curves.false_alarms.round(9), curves.detected.round(9), strict=True)
    assert set(kept) <= points
    assert (curves.false_alarms[0], curves.detected[0]) == (0, 0)
    assert (curves.false_alarms[-1], curves.detected[-1]) == (1, 1)
    area = auc(curves.false_alarms, curves.detected)
    whole = roc_auc_score(
        np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])
    )
    assert area == pytest.approx(whole, abs=0.01)


def test_bins_hold_the_middle_and_their_ends_what_is_beyond() -> None:
    curves = Curves.of(np.arange(1001.0), np.append(np.full(999, 500.0), 1e9))
    assert curves.edges[0] == 5 and curves.edges[-1] == 995  # half a per cent off either side
    width = 990 / 32
    assert curves.id_share[0] * 1001 == 6 + np.floor(width - 1e-9)
    assert curves.ood_share[-1] == 0.001 and curves.ood_share.max() == 0.999


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan]), np.zeros((2, 2))])
def test_scores_that_cannot_be_drawn_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="Scores"):
        Curves.of(np.ones(3), bad)
    with pytest.raises(InvalidInput, match="Scores"):
        Curves.of(bad, np.ones(3))


@pytest.mark.parametrize("case", CASES)
def test_all_charts_are_well_formed_and_stay_in_their_frame(case: str) -> None:
    curves = Curves.of(*CASES[case], threshold=1e300)
    for chart in (
        roc_chart([curves] * 5, 'a < b & "c"'),
        distribution_chart(curves, "d"),
        small_charts(curves, "s"),
        interval_mark(findings.estimate(0.2, 0.5), 0.5, 1.0),
        sample(3),
    ):
        svg = ElementTree.fromstring(chart)
        width, height = map(float, svg.attrib["viewBox"].split()[2:])
        assert "nan" not in chart and "inf" not in chart
        for path in svg.iter("path"):
            for command, numbers in re.findall(r"([MLVH])([-\d. ]+)", path.attrib["d"]):
                values = [float(number) for number in numbers.split()]
                assert all(0 <= value <= max(width, height) for value in values), command
    assert 'aria-label="a &lt; b &amp; &#34;c&#34;"' in roc_chart([curves], 'a < b & "c"')


def test_a_roc_curve_goes_through_its_points() -> None:
    svg = ElementTree.fromstring(roc_chart([Curves.of([0, 1, 2, 3], [2.5, 4, 5, 6])], "t"))
    (path,) = [each for each in svg.iter("path") if "roc" in each.attrib["class"]]
    points = [tuple(map(float, p.split())) for p in path.attrib["d"][1:].split("L")]
    (left, bottom), (right, top) = points[0], points[-1]
    found = {((x - left) / (right - left), (bottom - y) / (bottom - top)) for x, y in points}
    # above 3 are three of four OOD images, above 2 (and up to 2.5) all, and one of four ID
    assert {(0, 0), (0, 0.75), (0.25, 0.75), (0.25, 1), (1, 1)} <= found


@pytest.mark.parametrize("case", CASES)
def test_axes_have_round_numbers_inside_them(case: str) -> None:
    curves = Curves.of(*CASES[case])
    svg = ElementTree.fromstring(distribution_chart(curves, "t"))
    assert {"score", "images, %"} <= {str(text.text) for text in svg.iter("text")}
    below = [t for t in svg.iter("text") if t.attrib["text-anchor"] == "middle"]
    values = [
        float(str(t.text).replace("\N{MINUS SIGN}", "-"))
        for t in below
        if t.text not in ("score", "images, %")
    ]
    assert 2 <= len(values) <= 6 and len(set(values)) == len(values)
    width = curves.edges[-1] - curves.edges[0]
    assert values[0] >= curves.edges[0] - 1e-6 * width
    assert values[-1] <= curves.edges[-1] + 1e-6 * width
    assert np.allclose(np.diff(values), values[1] - values[0], rtol=1e-6)


def test_axes_have_numbers_as_people_write_them() -> None:
    chart = distribution_chart(Curves.of(*CASES["hundreds"]), "t")
    texts = {str(text.text) for text in ElementTree.fromstring(chart).iter("text")}
    assert {"\N{MINUS SIGN}500", "0", "500"} <= texts


def test_mean_ranks_are_where_they_belong() -> None:
    results = findings.results(20)
    difference = CriticalDifference(distance=3.0, p_value=0.01, sets=4)
    svg = ElementTree.fromstring(rank_chart(results.rows, difference))
    dots = list(svg.iter("circle"))
    ranked = sorted(results.rows, key=lambda row: row.mean_rank)[:MOST]
    assert len(dots) == MOST == 12
    places = np.array([float(dot.attrib["cx"]) for dot in dots])
    ranks = np.array([row.mean_rank for row in ranked])
    slope, _ = np.polyfit(ranks, places, 1)
    assert slope > 0 and np.corrcoef(ranks, places)[0, 1] > 0.99999
    for dot, row in zip(dots, ranked, strict=True):
        alike = row.mean_rank - ranked[0].mean_rank < 3
        assert dot.attrib["class"] == ("alike" if alike else "apart")


@pytest.mark.parametrize("count", [2, 3, 120])
def test_a_rank_chart_can_be_drawn_of_few_and_many(count: int) -> None:
    results = findings.results(count)
    for distance in (0.0, 1e-9, 500.0):
        difference = CriticalDifference(distance=distance, p_value=1.0, sets=1)
        svg = ElementTree.fromstring(rank_chart(results.rows, difference))
        assert len(list(svg.iter("circle"))) == min(len(results.rows), 12)
