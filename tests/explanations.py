"""Explanations made by hand, of which every number is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from neroli.detectors.shares import Shares
from neroli.explain import Explanation, Heatmap, Neurons
from neroli.explain.examples import Examples


def heatmap(relevance: torch.Tensor, reason: str | None = None) -> Heatmap:
    """Of one map ``[H, W]``."""
    return Heatmap(
        relevance=relevance[None],
        channels=relevance[None, None],
        started=relevance.sum()[None],
        magnitude=relevance.abs().sum()[None],
        method="lrp" if reason is None else "gradient x input",
        rules="composite" if reason is None else None,
        reason=reason,
    )


def neurons(
    evidence: list[float], usual: list[float], shares: list[float] | None, active: list[bool]
) -> Neurons:
    """Of one image."""
    return Neurons(
        classes=torch.tensor([0]),
        evidence=torch.tensor([evidence]),
        bias_evidence=torch.tensor([0.1]),
        usual=torch.tensor([usual]),
        spread=torch.full((1, len(usual)), 0.5),
        usual_bias=torch.tensor([0.1]),
        active=torch.tensor([active]),
        shares=None
        if shares is None
        else Shares(torch.tensor([shares]), torch.tensor([0.0]), torch.tensor([0.5]), "a rest"),
    )


def explanation(**changed: Any) -> Explanation:
    """Predicted polyp, flagged, half of what differs missing; with other values where given."""
    relevance = torch.zeros(9, 9)
    relevance[:3, :3] = 1.0
    values: dict[str, Any] = {
        "name": "frame 12.png",
        "picture": np.full((9, 9, 3), 120, dtype=np.uint8),
        "predicted_class": 0,
        "predicted_name": "polyp",
        "probability": 0.81,
        "compared_name": "polyp",
        "compared_images": 40,
        "score": 2.0,
        "p_value": 0.012,
        "threshold": 1.5,
        "is_ood": True,
        "false_alarm_rate": 0.05,
        "neurons": neurons(
            [2.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.5], [1.2, 0.4, 0.0, -0.1], [True, False] * 2
        ),
        "heatmap": heatmap(relevance),
        "deviation": heatmap(-relevance),
        "examples": Examples([], {}, {}, {}, {}),
    }
    return Explanation(**(values | changed))
