"""Drift is told of every record once, over restarts and crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neroli.serve import following
from neroli.serve.drift import Drift
from neroli.serve.following import Following
from neroli.serve.records import Records
from neroli.serve.scored import Scored
from neroli.serve.settings import Settings


def add(records: Records, numbers: range, guard: str = "a" * 16) -> None:
    records.add(
        [
            Scored(
                id=f"{number:032x}",
                request="r",
                content=f"{number:032x}",
                at=float(number),
                predicted_class=0,
                predicted_name=None,
                score=0.0,
                p_value=(1 + number * 37 % 100) / 100,
                is_ood=False,
                threshold=1.0,
                guard=guard,
            )
            for number in numbers
        ]
    )


def test_drift_survives_restarts_and_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ROWS_BETWEEN_SAVES", 10)
    records = Records(tmp_path / "r.sqlite", Settings())
    first = Following(records, "a" * 16, Drift(200))
    add(records, range(25))
    first.catch_up()
    add(records, range(25, 28))
    first.catch_up()  # not saved: the process is killed here
    add(records, range(28, 30))
    add(records, range(100, 105), guard="b" * 16)
    second = Following(records, "a" * 16, Drift(200))
    second.save()
    third = Following(records, "a" * 16, Drift(200))

    at_once = Drift(200)
    at_once.follow(records, "a" * 16)
    assert at_once.images == 30
    for drift in (second.drift, third.drift):
        assert drift.to_dict() == at_once.to_dict()
    records.close()


def test_after_a_reset_only_later_records_count(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.sqlite", Settings())
    first = Following(records, "a" * 16, Drift(200))
    add(records, range(20))
    first.catch_up()
    add(records, range(20, 25))  # of which it was not told
    first.reset()
    add(records, range(25, 32))
    again = Following(records, "a" * 16, Drift(200))
    again.catch_up()
    first.catch_up()
    assert again.drift.images == first.drift.images == 7
    records.close()


@pytest.mark.parametrize(
    "saved", [{"row": 5, "from": "an earlier neroli"}, Drift(200, 0.2).to_dict() | {"row": 5}]
)
def test_a_detector_set_otherwise_is_told_of_all_records_again(
    tmp_path: Path, saved: dict[str, Any]
) -> None:
    records = Records(tmp_path / "r.sqlite", Settings())
    add(records, range(5))
    records.save_state(f"drift {'a' * 16}", saved)
    assert Following(records, "a" * 16, Drift(200)).drift.images == 5
    records.close()
