"""What pages say of drift: whether there is an alarm, what that means, and how it came to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from neroli.explain.wording import percentage
from neroli.serve.page_charts import level_chart

if TYPE_CHECKING:
    from neroli.serve.drift import Drift

_REASONS = {
    "martingale": "new images are no longer like the calibration images",
    "cusum": "more images are flagged than the calibration allows",
}


def alarm_text(drift: Drift) -> str:
    """What an alarm says; empty without one."""
    alarms = dict(drift.alarms)  # which may come meanwhile
    reasons = [f"{_REASONS[test]} (seen at image {number:,})" for test, number in alarms.items()]
    if not reasons:
        return ""
    what = " and ".join(reasons)
    return (
        f"{what[0].upper()}{what[1:]}. Look at recent images; only if they are as they should be, "
        "calibrate again on such."
    )


def drift_facts(drift: Drift) -> dict[str, Any]:
    """What the template of the guard's page is given."""
    history = list(drift.history)  # which goes on meanwhile
    images = [number for number, _, _ in history]
    rate = percentage(drift.false_alarm_rate / 2)
    left_out = f" Images less than {drift.apart:g} s after the last one counted are left out."
    state = alarm_text(drift)
    if not state:
        state = f"No alarm after {drift.images:,} image{'' if drift.images == 1 else 's'}."
    return {
        "state": state,
        "alarm": drift.alarm,
        "meaning": "Two tests ask whether the images that come are still like those the guard was "
        "calibrated on; if they are not, its promise no longer holds. An alarm stays until it is "
        f"reset.{left_out if drift.apart else ''}",
        "doubts": drift.doubts(),
        "charts": [
            (
                "Do new images still mix with the calibration images?",
                level_chart(
                    images,
                    [level for _, level, _ in history],
                    math.log10(drift.martingale_limit),
                    "log10 of martingale",
                ),
                f"Evidence against that: each step of one is ten times more. Without drift it ever "
                f"reaches the limit with probability {rate} at most.",
            ),
            (
                "Are more flagged than the calibration allows?",
                level_chart(
                    images,
                    [float(level) for _, _, level in history],
                    drift.cusum_limit,
                    "CUSUM of flagged",
                ),
                f"Rises while more than {percentage(drift.flagged_share)} are flagged. Without "
                f"drift it reaches the limit within any 10,000 images with probability {rate} at "
                "most.",
            ),
        ],
    }
