"""The papers' figures as they are shipped."""

from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest

from neroli import detectors
from neroli.benchmark.published import DETECTORS, published
from neroli.errors import InvalidInput

NERO = "NERO (MICCAI 2025)"


def test_a_papers_table_is_given_as_it_stands() -> None:
    rows = published(NERO, "kvasir-v2", "ResNet-18")
    assert len(rows) == 11
    (react,) = (row for row in rows if row.method == "ReAct+Energy")
    assert (react.detector, react.auroc, react.fpr95) == ("react", 86.57, 53.78)
    assert react.source == "authors' repository README"
    assert rows[-1].detector == "nero" and (rows[-1].auroc, rows[-1].fpr95) == (90.76, 28.84)


def test_figures_are_percentages() -> None:
    tables = product(["kvasir-v2", "gastrovision"], ["ResNet-18", "DeiT-S"])
    rows = [row for table in tables for row in published(NERO, *table)]
    rows += published("LINe (CVPR 2023)", "imagenet vs iNaturalist", "ResNet-50")
    assert len(rows) == 45
    for row in rows:
        assert 1 < row.auroc <= 100 and 0 <= row.fpr95 <= 100


def test_every_method_stands_for_a_detector_there_is() -> None:
    assert set(DETECTORS.values()) <= set(detectors.names())
    assert len(set(DETECTORS.values())) == len(DETECTORS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (("NERO", "kvasir-v2", "ResNet-18"), "paper 'NERO'.*'NERO \\(MICCAI 2025\\)', 'LINe"),
        ((NERO, "cifar10", "ResNet-18"), "id_set 'cifar10'.*'kvasir-v2', 'gastrovision'.$"),
        ((NERO, "kvasir-v2", "ViT"), "model 'ViT'.*'ResNet-18', 'DeiT-S'.$"),
    ],
)
def test_what_is_not_published_is_refused_with_what_is(
    table: tuple[str, str, str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        published(*table)


@pytest.mark.realdata
def test_the_figures_are_those_that_were_collected(shared: Path) -> None:
    packaged = files("neroli.benchmark") / "published.csv"
    assert packaged.read_text() == (shared / "published.csv").read_text()
