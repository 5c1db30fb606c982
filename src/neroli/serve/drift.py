"""Have the images changed since the guard was calibrated? Two tests with stated false-alarm rates.

The martingale (``martingale.py``) asks whether new images still mix with the calibration images
and with one another; it sees small changes that come at once. The CUSUM (``cusum.py``) asks whether
more are flagged than the calibration allows; it also sees changes that come slowly. docs/drift.md
has what they promise, and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from neroli.calibration import Calibration, Promise
from neroli.errors import InvalidInput
from neroli.serve.cusum import designed
from neroli.serve.martingale import bet, first_accounts, level_ranks
from neroli.serve.records import Records

RUN = 10_000
"""Images over which the CUSUM's false-alarm rate is stated."""
POINTS = 500
"""Points of the history at most."""


class Drift:
    """Both tests over one stream of images, in the order in which they came; not thread-safe.

    While nothing has changed, the martingale ever alarms with probability ``false_alarm_rate / 2``
    at most, and the CUSUM within any 10,000 images with ``false_alarm_rate / 2`` at most, on
    average over calibration sets. An alarm stays until ``reset``.

    Args:
        calibration_images: n; with thresholds for each class, those of each such class.
        false_alarm_rate: in 0..1.
        promise: of the thresholds, by which images are flagged.
        groups: of every class, which of the ``calibration_images`` it was calibrated on, None if it
            has no promise and is left out; without groups, all belong to the first.
        apart: seconds between images that ``follow`` takes. Both tests hold for images that come
            independently of one another; of a video, let no two frames be taken.

    Raises:
        InvalidInput: if a number is out of range.
        NotEnoughImages: if there are too few calibration images for the promise.
    """

    def __init__(
        self,
        calibration_images: int | Sequence[int],
        false_alarm_rate: float = 0.01,
        *,
        promise: Promise | None = None,
        groups: Sequence[int | None] | None = None,
        apart: float = 0.0,
    ) -> None:
        if not 1e-6 <= false_alarm_rate <= 0.5:
            raise InvalidInput(
                f"The false-alarm rate of drift lies between 0 and 0.5, got {false_alarm_rate!r}."
            )
        if not 0 <= apart < math.inf:
            raise InvalidInput(f"apart is a number of seconds, 0 or more, got {apart!r}.")
        if isinstance(calibration_images, int):
            calibration_images = [calibration_images]
        self.calibration_images = tuple(calibration_images)
        self.false_alarm_rate = false_alarm_rate
        self.promise = promise or Promise()
        self.apart = apart
        self.groups = None if groups is None else tuple(groups)
        self.flagged_share = self._flagged_share(self.calibration_images)
        self.martingale_limit = 2 / false_alarm_rate
        self._cusum = designed(self.flagged_share, false_alarm_rate / 4, RUN)
        self._ranks = np.stack([level_ranks(n) for n in self.calibration_images])
        self._sizes = np.array(self.calibration_images) + 1
        self.row, self.taken_at = 0, -1e300
        self.reset()

    flagged_share: float
    """The largest share of ID images that may be flagged, as far as the calibration can tell."""
    martingale_limit: float
    """Capital at which the martingale alarms."""

    @classmethod
    def of(
        cls, calibration: Calibration, false_alarm_rate: float = 0.01, *, apart: float = 0.0
    ) -> Self:
        """The tests for a calibrated guard."""
        promise = calibration.promise
        if not (own := calibration.own_classes):
            return cls(len(calibration), false_alarm_rate, promise=promise, apart=apart)
        return cls(
            [int((calibration.predictions == c).sum()) for c in own],
            false_alarm_rate,
            promise=promise,
            apart=apart,
            groups=[own.index(c) if c in own else None for c in range(calibration.num_classes)],
        )

    def reset(self) -> None:
        """Begin anew, as if no image had come since the calibration; ``row`` stays."""
        self.images = 0
        self.martingale = 1.0
        self.cusum = 0
        self.alarms: dict[str, int] = {}
        self.history: list[tuple[int, float, int]] = []
        self._accounts = first_accounts()
        self._seen = np.zeros(len(self.calibration_images), np.int64)
        self._below = np.zeros_like(self._ranks)
        self._every = 1
        self._highest = (-math.inf, 0)

    row: int
    """Row number of the last record that ``follow`` saw."""
    taken_at: float
    """And when that image came that was taken last, in seconds since 1970."""
    images: int
    """Images that came, those left out included."""
    martingale: float
    """Capital now; large = the p-values have become smaller."""
    cusum: int
    """Sum now; large = more images are flagged than the calibration allows."""
    alarms: dict[str, int]
    """Which test alarmed ("martingale", "cusum"), and the number of the image at which it did."""
    history: list[tuple[int, float, int]]
    """Up to 500 points for a chart: number of the image, and since the point before the highest
    log10 of the martingale and the highest sum."""

    @property
    def alarm(self) -> bool:
        """Whether either test has alarmed since the last reset."""
        return bool(self.alarms)

    @property
    def cusum_limit(self) -> int:
        """Sum at which the CUSUM alarms."""
        return self._cusum.limit

    def update(
        self,
        p_values: Sequence[float],
        flagged: Sequence[bool],
        predicted: Sequence[int] | None = None,
    ) -> None:
        """The next images came.

        Args:
            p_values: ``[N]`` conformal p-values, in (0, 1].
            flagged: ``[N]`` whether each was above its threshold.
            predicted: ``[N]`` predicted classes; needed with groups.

        Raises:
            InvalidInput: if they do not fit together, or a p-value is out of range.
        """
        if self.groups is not None and predicted is None:
            raise InvalidInput("With thresholds for each class, drift needs the predicted classes.")
        if not all(0 < p <= 1 for p in p_values):
            raise InvalidInput("p-values lie above 0 and up to 1.")
        classes = [0] * len(p_values) if predicted is None else predicted
        if not len(p_values) == len(flagged) == len(classes):
            raise InvalidInput("There must be a p-value, a verdict and a class of every image.")
        for p_value, is_ood, c in zip(p_values, flagged, classes, strict=True):
            group = 0 if self.groups is None else self.groups[c]
            if group is not None:
                self._take(group, p_value, bool(is_ood))
            self.images += 1
            self._note()

    def follow(self, records: Records, guard: str) -> int:
        """Take what was recorded since the last call, and return the number of images taken.

        Args:
            records: of which none is taken twice, also after a restart from ``to_dict``; an image
                that comes again is not taken.
            guard: version of the guard that is calibrated so.
        """
        count = 0
        for arrival in records.arrivals(self.row, guard):
            self.row = arrival.row
            # neither way in time: requests end out of turn, and clocks are set back
            if abs(arrival.at - self.taken_at) >= self.apart:
                self.update([arrival.p_value], [arrival.is_ood], [arrival.predicted_class])
                self.taken_at = arrival.at
                count += 1
        return count

    def doubts(self) -> list[str]:
        """Why changes may be seen late or not at all, a sentence each reason."""
        promised = self.promise.false_alarm_rate
        if self.flagged_share <= 2 * promised:
            return []
        smallest = min(self.calibration_images)
        return [
            f"With {smallest} calibration images up to {self.flagged_share:.1%} of ordinary images "
            f"may be flagged, not only the {promised:.1%} promised: only a larger share counts as "
            f"drift. With {self._images_wanted(smallest)} images it would be {2 * promised:.1%}."
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it; small, whatever the number of images."""
        return {
            "calibration_images": list(self.calibration_images),
            "false_alarm_rate": self.false_alarm_rate,
            "promise": {
                "false_alarm_rate": self.promise.false_alarm_rate,
                "guarantee": self.promise.guarantee,
                "confidence": self.promise.confidence,
                "per_class": self.promise.per_class,
            },
            "groups": None if self.groups is None else list(self.groups),
            "apart": self.apart,
            "row": self.row,
            "taken_at": self.taken_at,
            "images": self.images,
            "martingale": self.martingale,
            "cusum": self.cusum,
            "alarms": dict(self.alarms),
            "history": [list(point) for point in self.history],
            "accounts": self._accounts.tolist(),
            "seen": self._seen.tolist(),
            "below": self._below.tolist(),
            "every": self._every,
            "highest": list(self._highest) if self._highest[0] > -math.inf else None,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What ``to_dict`` returned, exactly as it was.

        Raises:
            InvalidInput: if it is not of this version.
        """
        try:
            drift = cls(
                values["calibration_images"],
                values["false_alarm_rate"],
                promise=Promise(**values["promise"]),
                groups=values["groups"],
                apart=values["apart"],
            )
            drift.row, drift.taken_at = values["row"], values["taken_at"]
            drift.images = values["images"]
            drift.martingale = values["martingale"]
            drift.cusum, drift.alarms = values["cusum"], dict(values["alarms"])
            drift.history = [(n, capital, total) for n, capital, total in values["history"]]
            drift._every = values["every"]
            drift._highest = tuple(values["highest"] or drift._highest)
            for name, like in (
                ("accounts", drift._accounts),
                ("seen", drift._seen),
                ("below", drift._below),
            ):
                like[...] = np.array(values[name], like.dtype).reshape(like.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"The saved state of drift cannot be read ({error}): reset it."
            ) from None
        return drift

    def _take(self, group: int, p_value: float, is_ood: bool) -> None:
        rank = round(p_value * int(self._sizes[group]))
        below = rank <= self._ranks[group]
        chances = (self._ranks[group] + self._below[group]) / (
            self._sizes[group] + self._seen[group]
        )
        played = int(self._seen.sum())
        self._accounts, capital = bet(self._accounts, chances, below, played)
        self._seen[group] += 1
        self._below[group] += below
        self.martingale = float(capital)
        self.cusum = self._cusum.after(self.cusum, is_ood)
        if self.martingale >= self.martingale_limit:
            self.alarms.setdefault("martingale", self.images + 1)
        if self.cusum >= self._cusum.limit:
            self.alarms.setdefault("cusum", self.images + 1)

    def _note(self) -> None:
        """Add to the history; once it is full, every second point goes."""
        capital, total = self._highest
        self._highest = max(capital, math.log10(self.martingale)), max(total, self.cusum)
        if self.images % self._every:
            return
        self.history.append((self.images, *self._highest))
        self._highest = (-math.inf, 0)
        if len(self.history) > POINTS:
            self._every *= 2
            pairs = zip(self.history[::2], self.history[1::2], strict=False)
            last = self.history[-1]  # without a partner: the number of points is odd
            self.history = [
                (late[0], max(early[1], late[1]), max(early[2], late[2])) for early, late in pairs
            ]
            self._highest = last[1:]

    def _flagged_share(self, images: Sequence[int]) -> float:
        """An upper limit of the flagged share; wrong with a quarter of the false-alarm rate."""
        from scipy.stats import beta  # takes a second to import

        tail = self.false_alarm_rate / 4 / len(images)
        ranks = [self.promise.rank(n) for n in images]
        limits = [beta.isf(tail, n + 1 - k, k) for n, k in zip(images, ranks, strict=True)]
        return float(max(limits))

    def _images_wanted(self, few: int) -> int:
        """Calibration images with which the flagged share is at most twice the promised, or so."""
        groups = len(self.calibration_images)
        while self._flagged_share([few] * groups) > 2 * self.promise.false_alarm_rate:
            few = math.ceil(1.1 * few)
        return few
