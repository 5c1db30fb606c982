"""Scored images for tests of records and drift."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from neroli.serve.records import Records
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings

GUARD = "0123456789abcdef"


def scored(**changes: Any) -> Scored:
    """A scored image with an id of its own; flagged unless ``changes`` say otherwise."""
    values = {
        "id": uuid.uuid4().hex,
        "request": uuid.uuid4().hex,
        "content": uuid.uuid4().hex,
        "at": 1.7e9,
        "predicted_class": 0,
        "predicted_name": "polyp",
        "score": 1.5,
        "p_value": 0.01,
        "is_ood": True,
        "threshold": 1.0,
        "guard": GUARD,
    }
    return Scored(**{**values, **changes})


def opened(folder: Path, **settings: Any) -> Records:
    """The records of a folder."""
    return Records(folder / "records.sqlite", Settings(**settings))
