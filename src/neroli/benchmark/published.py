"""Figures of the papers' own tables, to hold beside what was measured and never mix with it."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from neroli.benchmark.results import Published
from neroli.errors import InvalidInput

DETECTORS = {
    "MSP": "msp",
    "ODIN": "odin",
    "Energy": "energy",
    "Entropy": "entropy",
    "MaxLogit": "max_logit",
    "Mahalanobis": "mahalanobis",
    "ViM": "vim",
    "NECO": "neco",
    "ReAct+Energy": "react",
    "GradNorm": "grad_norm",
    "NERO": "nero",
    "LINe": "line",
}
"""Our detectors by what the papers call them."""


def published(paper: str, id_set: str, model: str) -> list[Published]:
    """What a paper's table says, in its order.

    Args:
        paper: with venue and year, for example ``"NERO (MICCAI 2025)"``.
        id_set: the ID images, as the paper's table is named here.
        model: the network.

    Raises:
        InvalidInput: if there are no such figures; says what there is.
    """
    rows = list(_figures())
    for field, wanted in {"paper": paper, "id_set": id_set, "model": model}.items():
        there_are = dict.fromkeys(getattr(row, field) for row in rows)
        if wanted not in there_are:
            raise InvalidInput(
                f"There are no published figures of {field} {wanted!r}: there are of "
                f"{', '.join(map(repr, there_are))}."
            )
        rows = [row for row in rows if getattr(row, field) == wanted]
    return rows


@cache
def _figures() -> tuple[Published, ...]:
    text = (files("neroli.benchmark") / "published.csv").read_text(encoding="utf-8")
    return tuple(
        Published.model_validate({**row, "detector": DETECTORS.get(row["method"])})
        for row in csv.DictReader(text.splitlines())
    )
