"""The drift detector kept in step with the records, over restarts too."""

from __future__ import annotations

import threading

from neroli.errors import InvalidInput
from neroli.serve.drift import Drift
from neroli.serve.records import Records

ROWS_BETWEEN_SAVES = 200
"""Records that are read again after a crash, at most."""


class Following:
    """Tells a drift detector of every record of one guard, once and in order.

    Args:
        records: that the p-values are in, and the state of the detector.
        guard: version of the guard whose records count.
        fresh: a detector that was told of nothing yet.
    """

    def __init__(self, records: Records, guard: str, fresh: Drift) -> None:
        self._records = records
        self._guard = guard
        self._lock = threading.Lock()
        self.drift = self._saved(fresh) or fresh
        self._saved_row = self.drift.row
        self.catch_up()

    def catch_up(self) -> None:
        """Tell the detector of the records that came since."""
        with self._lock:
            self.drift.follow(self._records, self._guard)
            if self.drift.row - self._saved_row >= ROWS_BETWEEN_SAVES:
                self._save()

    def save(self) -> None:
        """Keep the detector's state in the records."""
        with self._lock:
            self._save()

    def reset(self) -> None:
        """Begin anew with the next record, as if none had come so far."""
        with self._lock:
            self.drift.follow(self._records, self._guard)
            self.drift.reset()
            self._save()

    @property
    def _key(self) -> str:
        return f"drift {self._guard}"

    def _save(self) -> None:
        self._records.save_state(self._key, self.drift.to_dict())
        self._saved_row = self.drift.row

    def _saved(self, fresh: Drift) -> Drift | None:
        """The saved detector; None if it must be told of all records again, being set otherwise."""
        values = self._records.load_state(self._key)
        try:
            saved = None if values is None else Drift.from_dict(values)
        except InvalidInput:  # of another version
            return None
        wanted = (fresh.false_alarm_rate, fresh.apart)
        same = saved is not None and (saved.false_alarm_rate, saved.apart) == wanted
        return saved if same else None
