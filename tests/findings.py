"""Results of benchmarks made up from a seed, of any number of detectors and sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neroli.benchmark.results import (
    Cost,
    CriticalDifference,
    Duplicates,
    Estimate,
    Failed,
    Forward,
    Mean,
    ModelFacts,
    OnSet,
    Published,
    Results,
    Row,
    SetFacts,
    Trial,
    Tuning,
)

NAMES = (
    *("NERO", "LINe", "Mahalanobis", "KNN", "ViM", "Energy", "MSP", "MaxLogit", "ReAct", "DICE"),
    *("ASH-S", "SCALE", "GEN", "fDBD", "NNGuide", "SHE", "Gram", "ODIN", "OpenMax", "KLMatching"),
)
SETS = {"Kvasir polyps": "near", "GastroVision": "near", "Textures": "far", "SVHN": "far"}


def estimate(value: float, half: float = 0.006) -> Estimate:
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def mean(found: Sequence[OnSet]) -> Mean | None:
    if not found:
        return None
    return Mean(
        auroc=estimate(float(np.mean([each.auroc.value for each in found]))),
        fpr95=estimate(float(np.mean([each.fpr95.value for each in found])), 0.02),
    )


def row(label: str, aurocs: dict[str, float], nearness: dict[str, str], **changed: Any) -> Row:
    """A detector of these AUROCs, by OOD set."""
    sets = {
        name: OnSet(
            auroc=estimate(auroc),
            fpr95=estimate(min(1.0, 1.9 * (1 - auroc)), 0.02),
            aupr_in=auroc - 0.02,
            aupr_out=auroc - 0.01,
            flagged=max(0.0, 2.2 * auroc - 1.2),
        )
        for name, auroc in aurocs.items()
    }
    of = {
        kind: mean([sets[name] for name in sets if nearness.get(name) == kind])
        for kind in ("near", "far")
    }
    values: dict[str, Any] = {
        "label": label,
        "detector": label.split(" ")[0].lower(),
        "hyperparameters": {"k": 50, "percentile": 90.0},
        "sets": sets,
        "mean": mean(list(sets.values())),
        **of,
        "flagged_id": 0.046,
        "train_test": estimate(0.507),
        "memorises": False,
        "mean_rank": 1.0,
        "cost": Cost(fit_seconds=1.25, score_seconds=0.0042, state_bytes=128_000),
    }
    return Row(**(values | changed))


def results(
    detectors: int = 12,
    nearness: dict[str, str | None] | None = None,
    *,
    seed: int = 0,
    names: Sequence[str] = NAMES,
    **changed: Any,
) -> Results:
    """A benchmark in which the first names do best, the third was also tuned, and one failed."""
    nearness = dict(SETS) if nearness is None else nearness
    draw = np.random.default_rng(seed)
    labels = [names[i] if i < len(names) else f"Detector {i + 1}" for i in range(detectors)]
    tuned = labels[2] if detectors > 2 else None
    levels = np.linspace(0.92, 0.55, detectors)
    aurocs = {
        label: {
            name: float(np.clip(level + draw.normal(0, 0.03) + (kind == "far") * 0.04, 0, 0.999))
            for name, kind in nearness.items()
        }
        for label, level in zip(labels, levels, strict=True)
    }
    if tuned:
        aurocs[f"{tuned} (tuned)"] = {k: min(0.999, v + 0.012) for k, v in aurocs[tuned].items()}
    ranks = {
        name: np.argsort(np.argsort([-found[name] for found in aurocs.values()])) + 1.0
        for name in nearness
    }
    rows = [
        row(
            label,
            found,
            nearness,
            detector=label.removesuffix(" (tuned)"),
            tuned=label.endswith(" (tuned)"),
            mean_rank=float(np.mean([ranks[name][place] for name in nearness])),
            memorises=place == 3,
            train_test=estimate(0.681 if place == 3 else 0.507),
            cost=Cost(
                fit_seconds=float(draw.uniform(0.01, 30)),
                score_seconds=float(draw.uniform(0.0002, 0.4)),
                state_bytes=int(draw.integers(0, 80_000_000)) if place % 4 else 0,
            ),
        )
        for place, (label, found) in enumerate(aurocs.items())
    ]
    rows.sort(key=lambda each: -each.mean.auroc.value)
    rows = [rows[0]] + [
        each.model_copy(update={"behind_best": behind(rows[0], each)}) for each in rows[1:]
    ]
    values: dict[str, Any] = {
        "suite": "gastro-endoscopy",
        "about": "Findings the classifier never saw, and pictures of other things.",
        "command": "neroli bench gastro-endoscopy --data /data --model timm:resnet50 --out bench",
        "finished": "2026-01-31T12:00:00+00:00",
        "versions": {"neroli": "0.6.0", "torch": "2.13.0", "python": "3.11.7"},
        "seed": 0,
        "resamples": 1000,
        "false_alarm_rate": 0.05,
        "promise": "at most 5% false alarms with 90% confidence",
        "calibrated_on": "500 calibration images that the classifier was not trained on",
        "model": ModelFacts(
            spec="timm:resnet50",
            head="fc",
            weights_hash="ab" * 16,
            preprocessing="resize 235, centre crop 224, mean (0.485, 0.456, 0.406)",
            features=2048,
            classes=8,
        ),
        "sets": [
            SetFacts(name="train", role="train", images=4000, accuracy=0.998),
            SetFacts(name="calibration", role="calibration", images=500, accuracy=0.92),
            SetFacts(name="test", role="test", images=1000, accuracy=0.914),
            *(
                SetFacts(name=name, role="ood", nearness=kind, images=1200, unreadable=place)
                for place, (name, kind) in enumerate(nearness.items())
            ),
        ],
        "rows": rows,
        "failures": [Failed(label="ODIN-2", reason="needs gradients; the model is a program")],
        "duplicates": [Duplicates(first="train", second="test", images=3)],
        "critical_difference": CriticalDifference(
            distance=1.2 * detectors**0.5, p_value=0.003, sets=len(nearness)
        )
        if detectors > 1
        else None,
        "tuning": []
        if tuned is None
        else [
            Tuning(
                detector=tuned,
                trials=[
                    Trial(settings={}, left_out=0.81, corrupted=0.77),
                    Trial(settings={"k": 10}, left_out=0.84, corrupted=0.79),
                    Trial(settings={"k": 200}, left_out=0.80, corrupted=None),
                ],
                chosen={"k": 10},
            )
        ],
        "published": [
            Published(
                paper="A paper (2025)",
                id_set="Kvasir",
                model="ResNet-18",
                method="NERO",
                detector="NERO",
                auroc=90.76,
                fpr95=38.14,
                source="arXiv 2506.15404, table 1",
            ),
            Published(
                paper="Another (2023)",
                id_set="CIFAR-10",
                model="DenseNet",
                method="Other",
                auroc=96.99,
                fpr95=14.72,
                source="arXiv 2303.13995, table 2",
            ),
        ],
        "remarks": ["12 images of GastroVision were missing."],
        "forward": Forward(images=9300, seconds=412.5),
    }
    return Results(**(values | changed))


def behind(best: Row, other: Row) -> Estimate:
    """By how much a row is behind, with three points of doubt to either side."""
    value = best.mean.auroc.value - other.mean.auroc.value
    return Estimate(value=value, low=value - 0.03, high=value + 0.03)
