"""What the server counts, as Prometheus reads it; no names of files or clients in labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from neroli.calibration import Calibration
from neroli.serve.scored import Scored

CONTENT_TYPE = CONTENT_TYPE_LATEST
RECENT = 1000
"""Images that the flagged share is of."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """Counts, latencies, scores and the drift alarm, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "neroli_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "neroli_request_seconds",
            "Time to answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter(
            "neroli_images", "Images by what was said of them.", ["verdict"], registry=registry
        )
        for verdict in ("in_distribution", "out_of_distribution", "refused"):
            self._images.labels(verdict)
        self._p_values = Histogram(
            "neroli_p_value", "Conformal p-values.", buckets=_P_VALUES, registry=registry
        )
        self._scores: Histogram | None = None
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._gauge(
            "neroli_flagged_share",
            f"Flagged, of the last {RECENT:,} images; NaN before the first.",
            lambda: sum(self._recent) / len(self._recent) if self._recent else float("nan"),
        )

    def watch(
        self,
        calibration: Calibration,
        guard_version: str,
        waiting: Callable[[], int],
        alarm: Callable[[], bool],
    ) -> None:
        """Once there is a guard: its scores, its version, its queue and its drift alarm."""
        quantiles = np.quantile(calibration.scores.numpy(), _QUANTILES)
        buckets = sorted({*quantiles.tolist(), calibration.threshold})
        self._scores = Histogram(
            "neroli_score",
            "Scores; bounds are quantiles of the calibration scores, and the threshold.",
            buckets=buckets,
            registry=self.registry,
        )
        info = Gauge("neroli_guard", "The guard served.", ["version"], registry=self.registry)
        info.labels(guard_version).set(1)
        self._gauge("neroli_queue_images", "Images accepted and not scored yet.", waiting)
        self._gauge("neroli_drift_alarm", "1 once the stream of p-values has drifted.", alarm)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; the path is a template, not what the client sent."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def scored(self, scored: Sequence[Scored], refused: int = 0) -> None:
        """Count images, and those that could not be scored."""
        for one in scored:
            self._images.labels("out_of_distribution" if one.is_ood else "in_distribution").inc()
            self._p_values.observe(one.p_value)
            self._recent.append(one.is_ood)
            if self._scores is not None:
                self._scores.observe(one.score)
        self._images.labels("refused").inc(refused)

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        Gauge(name, meaning, registry=self.registry).set_function(value)
