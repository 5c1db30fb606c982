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
        id_set: the ID images; every table that begins so is meant, as "imagenet vs SUN".
        model: the network.

    Raises:
        InvalidInput: if there are no such figures; says what there is.
    """
    rows = list(_figures())
    for field, wanted in {"paper": paper, "id_set": id_set, "model": model}.items():
        there_are = dict.fromkeys(getattr(row, field) for row in rows)
        rows = [row for row in rows if _is(field, getattr(row, field), wanted)]
        if not rows:
            raise InvalidInput(
                f"There are no published figures of {field} {wanted!r}: there are of "
                f"{', '.join(map(repr, there_are))}."
            )
    return rows


def _is(field: str, known: str, wanted: str) -> bool:
    return known == wanted or (field == "id_set" and known.startswith(f"{wanted} "))


@cache
def _figures() -> tuple[Published, ...]:
    text = (files("neroli.benchmark") / "published.csv").read_text(encoding="utf-8")
    return tuple(
        Published.model_validate({**row, "detector": DETECTORS.get(row["method"])})
        for row in csv.DictReader(text.splitlines())
    )
