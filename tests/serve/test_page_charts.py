"""Where pages place a score: charts to scale, counts, and p-values in words."""

from __future__ import annotations

import re

import pytest
import torch

from neroli.calibration import Calibration, Promise
from neroli.serve.page_charts import calibration_chart
from neroli.serve.page_facts import Place, p_value_in_words
from reviewing import record


def test_the_chart_marks_threshold_and_image_to_scale() -> None:
    chart = str(calibration_chart([0.0, 1.0, 2.0, 3.0, 4.0], threshold=3.0, score=2.0))
    threshold, image = (
        float(re.search(rf'<line class="{kind}" x1="([\d.]+)"', chart)[1])  # type: ignore[index]
        for kind in ("threshold", "image-mark inside")
    )
    grid = {
        text: float(x)
        for x, text in re.findall(
            r'<text x="([\d.]+)" y="171" text-anchor="middle">(\d)</text>', chart
        )
    }
    assert threshold - image == pytest.approx((grid["4"] - grid["2"]) / 2, abs=0.2)
    assert image == grid["2"]


def test_a_score_far_off_is_marked_at_the_edge() -> None:
    chart = str(calibration_chart([0.0, 1.0, 2.0], threshold=1.5, score=1e6))
    assert "this image →" in chart and 'class="image-mark"' in chart


def test_a_class_with_a_threshold_of_its_own_is_compared_with_its_own_images() -> None:
    predictions = torch.tensor([0] * 40 + [1] * 60)
    scores = torch.cat([torch.arange(40) / 40, 10 + torch.arange(60) / 60])
    calibration = Calibration(scores, predictions, 2, Promise(0.05, "average", per_class=True))
    shown = record(1, "a" * 16, predicted_class=0, predicted_name="polyp", score=5.0)
    place = Place.of(shown, calibration, "a" * 16)
    assert "those of all 40 calibration images predicted polyp" in place.position


@pytest.mark.parametrize(
    ("p_value", "frequency"),
    [
        (1.0, "Of 100 ordinary images"),
        (0.64, "about 64 or fewer"),
        (0.012, "Of 1,000 ordinary images, like those the guard was calibrated on, about 12 or"),
        (1 / 2001, "Of 10,000 ordinary images, like those the guard was calibrated on, about 5 or"),
    ],
)
def test_a_p_value_is_said_as_a_frequency(p_value: float, frequency: str) -> None:
    assert frequency in p_value_in_words(p_value)
