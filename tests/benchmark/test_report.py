"""The report of a benchmark: one page that holds all it shows, and says what was found."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

import explanations as given
import findings
from neroli import Guard
from neroli.benchmark.charts import Curves
from neroli.benchmark.report import Gallery, write_bench_report
from neroli.benchmark.results import Results
from neroli.errors import InvalidInput
from neroli.explain import explain
from networks import colour_tensors
from pages import VOID, Checked, assert_can_be_heard, assert_holds_all

EVIL = '<script>alert("1")</script>\n\x1b[31m \u202e {{ 7 * 7 }} & \'"'
SHOWN = EVIL.replace("\n", "\\n").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


def curves_of(results: Results, images: int = 300) -> dict[str, dict[str, Curves]]:
    """Of normal scores that have about the AUROC of the results."""
    draw = np.random.default_rng(0)
    inside = draw.normal(0, 1, images)
    return {
        row.label: {
            name: Curves.of(
                inside, draw.normal(2**0.5 * norm.ppf(found.auroc.value), 1, images), 1.6
            )
            for name, found in row.sets.items()
        }
        for row in results.rows
    }


def page(path: Path, results: Results, *galleries: Gallery, **more: Any) -> Checked:
    write_bench_report(path, results, more.get("curves", curves_of(results)), galleries)
    return Checked(path.read_text(encoding="utf-8"))


def words(text: str) -> str:
    return " ".join(text.split())


CASES: Mapping[str, Results] = {
    "usual": findings.results(),
    "many": findings.results(50),
    "many sets": findings.results(5, {f"set {i}": "near" if i % 2 else None for i in range(14)}),
    "one detector": findings.results(1),
    "two detectors": findings.results(2),
    "one set": findings.results(6, {"Textures": "far"}),
    "no far sets": findings.results(6, {"A": "near", "B": "near"}),
    "nobody says how near": findings.results(4, {"A": None, "B": None}),
    "no result": findings.results(2, rows=[], critical_difference=None, tuning=[]),
    "nothing to say": findings.results(
        3, failures=[], duplicates=[], tuning=[], published=[], remarks=[], about=""
    ),
    "stored activations": findings.results(
        3, forward=findings.Forward(images=0, seconds=0.0)
    ),
    "hostile": findings.results(
        3,
        {EVIL: "near", "x" * 700: None},
        names=[EVIL, EVIL + "2", "y" * 700],
        suite=EVIL,
        about=EVIL,
        command=EVIL,
        versions={EVIL: EVIL},
        promise=EVIL,
        calibrated_on=EVIL,
        failures=[findings.Failed(label=EVIL, reason=EVIL)],
        remarks=[EVIL],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_page_holds_all_it_shows_and_can_be_heard(tmp_path: Path, case: str) -> None:
    image = given.explanation()
    found = page(tmp_path / "r.html", CASES[case], Gallery("test", "NERO", [image], [image]))
    assert_holds_all(found)
    assert_can_be_heard(found)
    assert not re.search(r"\b(nan|inf|None|undefined)\b", found.text)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_names_are_text(tmp_path: Path) -> None:
    image = given.explanation(name=EVIL, predicted_name=EVIL, compared_name=EVIL)
    found = page(tmp_path / "r.html", CASES["hostile"], Gallery(EVIL, EVIL, [image], []))
    assert found.text.count(SHOWN) >= 30
    assert "<script" not in found.source and "\u202e" not in found.source
    assert "49" not in re.findall(r"alert.{60}", found.text)[0]


class Tables(HTMLParser):
    """The texts of all cells, by table and row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._depth = 0
        self.feed(page)
        self.tables = [[[words(cell) for cell in row] for row in one] for one in self.tables]

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._depth = 1
        elif self._depth and tag not in VOID:
            self._depth += 1
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self._depth -= bool(self._depth)

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.tables[-1][-1][-1] += data


def number(cell: str) -> float:
    return float(cell.split()[0].replace("\N{MINUS SIGN}", "-").replace(",", ""))


@pytest.mark.parametrize("case", ["usual", "many", "many sets"])
def test_the_numbers_are_those_of_the_results(tmp_path: Path, case: str) -> None:
    results = CASES[case]
    tables = Tables(page(tmp_path / "r.html", results).source).tables
    ranking, sets = tables[0][2:], len(results.ood_sets)
    assert len(ranking) == len(results.rows)
    for row, cells in zip(results.rows, ranking, strict=True):
        assert cells[0].startswith(row.label)
        assert ("not told apart" in cells[0]) == (
            row.behind_best is not None and row.behind_best.low <= 0
        )
        assert ("memorises" in cells[0]) == row.memorises
        means = [mean for mean in (row.mean, row.near, row.far) if mean is not None]
        estimates = [e for mean in means for e in (mean.auroc, mean.fpr95)]
        shown = cells[2 : 2 + len(estimates)]
        for estimate, cell in zip(estimates, shown, strict=True):
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert value == pytest.approx(100 * estimate.value, abs=0.051)
            assert low == pytest.approx(100 * estimate.low, abs=0.051)
            assert high == pytest.approx(100 * estimate.high, abs=0.051)
        behind, rank, flagged = cells[2 + len(estimates) :]
        if row.behind_best is not None:
            assert number(behind) == pytest.approx(100 * row.behind_best.value, abs=0.051)
        assert float(rank) == pytest.approx(row.mean_rank, abs=0.051)
        assert float(flagged) == pytest.approx(100 * row.flagged_id, abs=0.051)
    together = tables[1 : 1 + -(-sets // 4)]
    for place, row in enumerate(results.rows):
        shown = [cell for table in together for cell in table[2 + place][1:]]
        for each, auroc, fpr95 in zip(results.ood_sets, shown[::2], shown[1::2], strict=True):
            assert number(auroc) == pytest.approx(100 * row.sets[each.name].auroc.value, abs=0.051)
            assert number(fpr95) == pytest.approx(
                100 * row.sets[each.name].fpr95.value, abs=0.051
            )  # fmt: skip


def test_of_one_set_there_is_one_column_and_no_ranks(tmp_path: Path) -> None:
    found = page(tmp_path / "r.html", CASES["one set"])
    top, below, *ranking = Tables(found.source).tables[0]
    assert top[1] == "Textures" and "Near sets" not in top and "Far sets" not in top
    assert [cell.split()[0] for cell in below[1:]] == ["AUROC", "FPR95"]
    assert all(len(cells) == 6 for cells in ranking)
    assert "Mean rank" not in found.text


def table_with(found: Checked, *heads: str) -> list[list[str]]:
    """The one table that has all these columns."""
    (table,) = [
        table
        for table in Tables(found.source).tables
        if all(any(head in cell for cell in table[0]) for head in heads)
    ]
    return table


def test_cost_is_beside_that_of_the_network(tmp_path: Path) -> None:
    results = findings.results(forward=findings.Forward(images=500, seconds=10.0))
    cost = findings.Cost(
        fit_seconds=1.5, score_seconds=0.3, state_bytes=2_500_000, network_ratio=3.25
    )
    results = results.model_copy(
        update={"rows": [row.model_copy(update={"cost": cost}) for row in results.rows]}
    )
    found = page(tmp_path / "r.html", results)
    assert "took 20 s for 1,000 images" in found.text
    # 0.3 s beside 20 s
    assert table_with(found, "Fit, s")[1][1:] == ["1.50", "300.0", "1.50", "2.5 MB", "3.2×"]  # noqa: RUF001
    unknown = page(tmp_path / "u.html", CASES["stored activations"])
    assert "network's own time is not known" in unknown.text
    assert not any("Beside" in head for head in table_with(unknown, "Fit, s")[0])


def test_tuned_settings_stand_beside_the_published_default(tmp_path: Path) -> None:
    results = CASES["usual"]
    _, default, tuned = table_with(page(tmp_path / "r.html", results), "Objective", "Measured")
    by_label = {row.label: row for row in results.rows}
    assert default[1] == "published default" and tuned[0] == "tuned: k=10"
    assert default[2] == "79.0" and tuned[1] == "81.5"  # means of 0.81, 0.77 and of 0.84, 0.79
    for cells, label in ((default[3:], "Mahalanobis"), (tuned[2:], "Mahalanobis (tuned)")):
        mean = by_label[label].mean
        assert number(cells[0]) == pytest.approx(100 * mean.auroc.value, abs=0.051)
        assert number(cells[1]) == pytest.approx(100 * mean.fpr95.value, abs=0.051)


def test_published_figures_have_their_own_table(tmp_path: Path) -> None:
    results = CASES["usual"]
    found = page(tmp_path / "r.html", results)
    _, nero, other = table_with(found, "Paper")
    best = next(row for row in results.rows if row.detector == "NERO").mean.auroc.value
    assert nero[3:5] == ["90.8", "38.1"] and nero[-1] == "arXiv 2506.15404, table 1"
    assert float(nero[5]) == pytest.approx(100 * best, abs=0.051)
    assert other[5:7] == ["–", "–"]  # noqa: RUF001


def first_words(found: Checked) -> str:
    """What stands above the ranking."""
    text = words(found.text)
    return text[text.index("which detector?") : text.index("How it was run")]


def test_the_answer_comes_first_and_is_honest(tmp_path: Path) -> None:
    kinds = {"A": "near", "B": "far"}
    rows = [findings.row(label, {"A": 0.8, "B": 0.9}, kinds) for label in ("One", "Two", "Three")]
    apart = findings.estimate(0.03).model_copy(update={"low": 0.01})
    alike = apart.model_copy(update={"low": -0.01})
    rows[1] = rows[1].model_copy(update={"behind_best": alike})
    rows[2] = rows[2].model_copy(update={"behind_best": apart})
    said = first_words(page(tmp_path / "r.html", findings.results(3, kinds, rows=rows)))
    assert "One has the highest mean AUROC over 2 OOD sets: 85.0% (95% interval 84.4" in said
    assert "Of the other 2, one is not told apart from it" in said and ": Two." in said
    # FPR95 is 1.9 times what AUROC is short of one: 38 and 19
    assert "about 28 of 100 OOD images (mean over the sets; most on A, about 38)" in said
    assert "do not rely on it alone" not in said
    assert "only 2 OOD sets" in said

    weak = findings.row("One", {"A": 0.6}, {"A": "near"}, memorises=True)
    said = first_words(page(tmp_path / "w.html", findings.results(3, {"A": "near"}, rows=[weak])))
    assert "One has the highest AUROC on A: 60.0%" in said
    assert "nothing to compare it with" in said
    assert "about 76 of 100 OOD images: more than half, so do not rely on it alone" in said
    assert "whether an image was seen before" in said

    few = [each.model_copy(update={"images": 40}) for each in findings.results().sets]
    said = first_words(page(tmp_path / "f.html", findings.results(sets=few)))
    assert "test (40)" in said and "fewer than 100 images" in said


def test_what_makes_it_doubtful_is_said_at_the_top(tmp_path: Path) -> None:
    said = first_words(page(tmp_path / "r.html", CASES["usual"]))
    assert "Before you rely on this" in said
    assert "3 images are in both train and test" in said
    assert "1 detector tells training from test images" in said and "KNN (68.1%)" in said
    assert "1 detector gave no result: ODIN-2" in said
    assert "6 images could not be read" in said and "Textures (2)" in said
    found = page(tmp_path / "r.html", CASES["usual"])
    assert "needs gradients; the model is a program" in found.text
    assert "12 images of GastroVision were missing." in found.text
    sets = [each.model_copy(update={"unreadable": 0}) for each in findings.results().sets]
    calm = findings.results(1, duplicates=[], failures=[], sets=sets)
    assert "Before you rely" not in page(tmp_path / "c.html", calm).text


def test_detectors_that_memorise_are_named_with_their_figure(tmp_path: Path) -> None:
    found = page(tmp_path / "r.html", CASES["usual"])
    text = words(found.text)
    assert "1 of 13 does not: KNN (68.1%, 67.5" in text
    (flagged,) = [row for row in table_with(found, "Finding") if "memorises" in row[-1]]
    assert flagged[0] == "KNN" and flagged[1].startswith("68.1")
    assert "All do." in page(tmp_path / "c.html", CASES["one detector"]).text


def test_what_it_was_run_with_can_be_read(tmp_path: Path) -> None:
    results = CASES["usual"]
    found = page(tmp_path / "r.html", results)
    for part in (
        results.command, results.finished, results.promise, results.calibrated_on,
        "neroli 0.6.0, torch 2.13.0", results.model.preprocessing, results.model.weights_hash,
        "k=50, percentile=90.0", "91.4", "1,000 resamples",
    ):  # fmt: skip
        assert part in words(found.text)


def test_every_detector_has_its_curves_on_every_set(tmp_path: Path) -> None:
    results = CASES["many"]
    found = page(tmp_path / "r.html", results)
    labels = [str(svg.get("aria-label")) for svg in found.all("svg")]
    for row in results.rows:
        for name, on in row.sets.items():
            said = f"of {row.label} on {name}: AUROC {100 * on.auroc.value:.1f}%"
            assert sum(said in label for label in labels) == 1
    assert sum(label.startswith("ROC curves on") for label in labels) == 4
    assert len(found.source) < 1.5e6
    without = page(tmp_path / "w.html", results, curves={})
    assert not any("ROC" in str(svg.get("aria-label")) for svg in without.all("svg"))


def test_real_explanations_make_galleries(guard: Guard, tmp_path: Path) -> None:
    images = colour_tensors(4, 5)[0]
    explained = explain(guard, images, ["a.png", "b.png", "c.png", "d.png"])
    galleries = [
        Gallery("test", "NERO", explained[:2], explained[2:]),
        Gallery("Textures", "NERO", explained[:1], []),
    ]
    found = page(tmp_path / "r.html", findings.results(2), *galleries)
    assert_holds_all(found)
    assert len(found.all("img")) == 5 * 3
    text = words(found.text)
    assert "test (ID): the 2 most OOD to NERO" in text and "test (ID): the 2 least" in text
    assert "Textures: the 1 most OOD to NERO" in text and "Textures: the 0" not in text
    for each in explained:
        assert words(each.summary) in text
        assert f"score {each.score:.4g}, p-value {each.p_value:.2g}" in text


def test_pictures_of_photographs_are_small(tmp_path: Path) -> None:
    noise = torch.rand(600, 400, 3, generator=torch.Generator().manual_seed(0))
    image = given.explanation(
        picture=(255 * noise).byte().numpy(), heatmap=given.heatmap(torch.ones(600, 400))
    )
    found = page(tmp_path / "r.html", findings.results(1), Gallery("test", "NERO", [image], []))
    sources = [str(each["src"]) for each in found.all("img")]
    assert all(source.startswith("data:image/jpeg") for source in sources)
    assert max(map(len, sources)) < 25_000  # as bytes, noise of 128 by 85 pixels is 32,640


def test_a_page_is_written_to_html_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\.html file"):
        write_bench_report(tmp_path / "r.pdf", findings.results(1), {}, [])
