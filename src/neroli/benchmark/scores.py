"""The scores of a benchmark's detectors, kept on disk so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neroli.benchmark.results import Cost
from neroli.files import atomic_path


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one detector.

    Attributes:
        sets: by set of images, ``[N]`` float64, higher = more OOD.
        cost: of getting them.
    """

    sets: Mapping[str, Tensor]
    cost: Cost


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores, atomically.

    Raises:
        ArtefactError: if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        save_file(
            {name: values.contiguous() for name, values in scores.sets.items()},
            temporary,
            {"cost": scores.cost.model_dump_json()},
        )


def read_scores(path: Path) -> Scores | None:
    """Scores that were written; None if there are none, or the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            cost = Cost.model_validate(json.loads((file.metadata() or {})["cost"]))
        return Scores(load_file(path), cost)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
