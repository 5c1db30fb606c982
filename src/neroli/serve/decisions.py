"""What people's decisions on flagged images say about the threshold.

Of the images that were scored, each counted once however often it came, F were flagged and U were
not; of the flagged, D were decided, x of them "fine". If the decided ones are like the undecided,
x F / D flagged images are fine, and if what was not flagged is ID, the false-alarm rate among ID
images is estimated as

    (x F / D) / (x F / D + U).

Its interval: were every flagged image decided with probability D / F, an image that is ID, and not
both flagged and undecided, would be among the x rather than the U with a probability whose odds are
D / F times those of a false alarm. Clopper and Pearson's (1934) interval of that probability, x of
x + U, is exact where all flagged images are decided and too wide otherwise, for the number decided
is known. Flagged images that are really OOD do not enter. OOD images that were not flagged count as
ID and make the estimate too low; docs/records.md says how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Decision = Literal["ood", "fine"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Decisions:
    """How many images one guard scored and flagged, and what was decided of them.

    Attributes:
        guard: version, 16 hexadecimal digits; empty if no image was scored.
        images: different ones that were scored, dropped records included.
        flagged: of them.
        flagged_fine, flagged_ood: flagged images decided to be fine, or really OOD.
        passed_fine, passed_ood: the same of images that were not flagged; they are not a part of
            the rate, for nobody looks at all of them.
    """

    guard: str
    images: int
    flagged: int
    flagged_fine: int = 0
    flagged_ood: int = 0
    passed_fine: int = 0
    passed_ood: int = 0

    @property
    def decided(self) -> int:
        """Flagged images with a decision."""
        return self.flagged_fine + self.flagged_ood

    @property
    def false_alarm_rate(self) -> float | None:
        """Estimated share of ID images that are flagged, in 0..1; None without decisions."""
        passed = self.images - self.flagged
        if self.flagged == 0:
            return 0.0 if passed else None
        if self.decided == 0:
            return None
        false_alarms = self.flagged_fine * self.flagged / self.decided
        return false_alarms / (false_alarms + passed) if false_alarms + passed else None

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate lies with 95 % confidence, or more; (0, 1) if nothing is known."""
        from scipy.stats import beta  # takes a second to import

        fine, passed = self.flagged_fine, self.images - self.flagged
        if self.flagged and not self.decided:
            return 0.0, 1.0
        tail = (1 - CONFIDENCE) / 2
        low = float(beta.ppf(tail, fine, passed + 1)) if fine else 0.0
        high = float(beta.ppf(1 - tail, fine + 1, passed)) if passed else 1.0
        reviewed = self.decided / self.flagged if self.flagged else 1.0
        return low / (low + (1 - low) * reviewed), high / (high + (1 - high) * reviewed)

    @property
    def caveat(self) -> str:
        """What the rate takes for granted of flagged images without a decision; empty if none."""
        others = self.flagged - self.decided
        if not (self.decided and others):
            return ""
        return (
            f"This holds only if what was reviewed is like the other {others:,} flagged: review in "
            "random order, or all."
        )

    def judged(self, promised: float) -> str:
        """One sentence on whether the threshold keeps the false-alarm rate it promises.

        Args:
            promised: false-alarm rate, in 0..1.
        """
        rate, (low, high) = self.false_alarm_rate, self.interval
        if rate is None:
            return "No flagged image is decided yet, so nothing is known of the false-alarm rate."
        observed = (
            f"{rate:.1%} of ordinary images are flagged ({low:.1%} to {high:.1%} with "
            f"{CONFIDENCE:.0%} confidence)"
        )
        if low > promised:
            said = (
                f"{observed}, more than the {promised:.1%} promised: ordinary images are no longer "
                "like the calibration images; calibrate again on recent ones."
            )
        elif high <= promised:
            said = f"{observed}, within the {promised:.1%} promised."
        else:
            said = f"{observed}; whether that is within the {promised:.1%} promised is still open."
        return f"{said} {self.caveat}".strip()
