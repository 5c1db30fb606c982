"""From scores to rows: metrics with intervals, means, comparison with the best, and sanity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neroli import metrics
from neroli.benchmark.bootstrap import Resampled, Resamples, estimate
from neroli.benchmark.entries import Entry
from neroli.benchmark.ranking import mean_ranks
from neroli.benchmark.results import Estimate, Mean, OnSet, Row
from neroli.benchmark.scores import Scores
from neroli.benchmark.stores import OOD, Stores
from neroli.benchmark.thresholds import Flagged
from neroli.data.named.sets import Nearness

MEMORISES = 0.05
"""How far from a half the AUROC between training and test images must surely lie to be told."""
FEW = 30
"""Of fewer training or test images that cannot be said."""


def rows_of(
    entries: Sequence[Entry],
    scores: Mapping[str, Scores],
    flagged: Mapping[str, Flagged | None],
    stores: Stores,
    nearness: Mapping[str, Nearness | None],
    *,
    resamples: int,
    seed: int,
) -> list[Row]:
    """The rows of a table, the best mean AUROC first.

    Args:
        entries: the detectors that have scores.
        scores: theirs, by label.
        flagged: what each flags, by label; None if that cannot be said.
        stores: of the sets.
        nearness: of every OOD set.
        resamples: of the bootstrap.
        seed: of it.
    """
    drawn = Resamples(
        len(stores.of["test"]),
        {name: len(stores.ood[name]) for name in nearness},
        resamples=resamples,
        seed=seed,
    )
    known = len(scores[entries[0].label].sets["train"])
    enough = min(known, len(stores.of["test"])) >= FEW
    seen = Resamples(known, {"test": len(stores.of["test"])}, resamples=resamples, seed=seed)
    found = {entry.label: _resampled(scores[entry.label], drawn) for entry in entries}
    entries = sorted(entries, key=lambda entry: -_value(found[entry.label].auroc_value, nearness))
    best = found[entries[0].label]
    points = [[found[entry.label].auroc_value[name] for name in nearness] for entry in entries]
    near, far = ([n for n in nearness if nearness[n] == kind] for kind in ("near", "far"))
    rows = []
    for entry, rank in zip(entries, mean_ranks(np.array(points)).tolist(), strict=True):
        own, mine = scores[entry.label], found[entry.label]
        shares = flagged[entry.label]
        outside = {} if shares is None else shares.outside
        told = seen.evaluate(own.sets["train"].numpy(), {"test": own.sets["test"].numpy()})
        train_test = estimate(told.auroc_value["test"], told.auroc["test"])
        rows.append(
            Row(
                label=entry.label,
                detector=entry.detector.name,
                hyperparameters=entry.detector.hyperparameters(),
                tuned=entry.tuned,
                sets={name: _on_set(own, mine, name, outside.get(name)) for name in nearness},
                mean=_mean(mine, nearness),
                near=_mean(mine, near) if near else None,
                far=_mean(mine, far) if far else None,
                flagged_id=None if shares is None else shares.inside,
                train_test=train_test,
                memorises=enough and _is_far(train_test),
                behind_best=None if mine is best else _behind(best, mine, nearness),
                mean_rank=rank,
                cost=own.cost.model_copy(update={"network_ratio": entry.network_ratio}),
            )
        )
    return rows


def _is_far(train_test: Estimate) -> bool:
    return train_test.low > 0.5 + MEMORISES or train_test.high < 0.5 - MEMORISES


def _resampled(scores: Scores, drawn: Resamples) -> Resampled:
    outside = {n: v.numpy() for n, v in scores.sets.items() if n.startswith(OOD)}
    return drawn.evaluate(
        scores.sets["test"].numpy(), {n.removeprefix(OOD): v for n, v in outside.items()}
    )


def _on_set(scores: Scores, found: Resampled, name: str, share: float | None) -> OnSet:
    inside, outside = scores.sets["test"].numpy(), scores.sets[OOD + name].numpy()
    return OnSet(
        auroc=estimate(found.auroc_value[name], found.auroc[name]),
        fpr95=estimate(found.fpr95_value[name], found.fpr95[name]),
        aupr_in=metrics.aupr_in(inside, outside),
        aupr_out=metrics.aupr_out(inside, outside),
        flagged=share,
    )


def _mean(found: Resampled, names: Sequence[str] | Mapping[str, object]) -> Mean:
    return Mean(
        auroc=estimate(_value(found.auroc_value, names), _resampled_mean(found.auroc, names)),
        fpr95=estimate(_value(found.fpr95_value, names), _resampled_mean(found.fpr95, names)),
    )


def _behind(best: Resampled, found: Resampled, names: Mapping[str, object]) -> Estimate:
    """By how much the mean AUROC is below the best one, of the same resamples."""
    return estimate(
        _value(best.auroc_value, names) - _value(found.auroc_value, names),
        _resampled_mean(best.auroc, names) - _resampled_mean(found.auroc, names),
    )


def _value(values: Mapping[str, float], names: Sequence[str] | Mapping[str, object]) -> float:
    return float(np.mean([values[name] for name in names]))


def _resampled_mean(
    resampled: Mapping[str, NDArray[np.float64]], names: Sequence[str] | Mapping[str, object]
) -> NDArray[np.float64]:
    return np.asarray(np.mean([resampled[name] for name in names], axis=0))
