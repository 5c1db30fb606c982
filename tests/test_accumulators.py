"""What statistics have gathered survives the way to a file and back."""

import copy
import importlib
import pkgutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import neroli
from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.accumulators import packed, unpack
from neroli.assumptions import GatherFacts
from neroli.detectors.ensemble import _SomeScores
from neroli.errors import ArtefactError
from neroli.explain.examples import LargestImages
from neroli.fitting import take_in
from neroli.histograms import BinCounts
from neroli.moments import ClassMeans, ClassMoments, Covariance, LogSumExp
from neroli.statistics import (
    ConfusionCounts,
    Count,
    Extrema,
    Mean,
    Quantiles,
    Range,
    Reservoir,
    SampledMean,
    Statistic,
    accumulator,
)
from neroli.tails import ClassBounds, ClassLargest


def _largest(batch: Activations) -> torch.Tensor:
    return batch.logits.amax(dim=1)


def _none(batch: Activations) -> torch.Tensor:
    return torch.zeros(len(batch))


EXAMPLES: list[Statistic[Any]] = [
    BinCounts("features", (0.0, 0.5, 1.0, 4.0)),
    ClassBounds("logits", "predicted", _none),
    ClassLargest(_largest, 7),
    ClassMeans("features"),
    ClassMoments("features", "correct", allow_empty=True),
    ConfusionCounts(),
    Count(),
    Covariance("features"),
    Extrema("features"),
    GatherFacts(),
    LargestImages("features", 3),
    LogSumExp("logits"),
    Mean(_largest),
    Quantiles("features", Range(0.0, 8.0), (0.1, 0.9), bins=64),
    Reservoir("features", 50),
    SampledMean("features", share=0.5),
    _SomeScores("features", 50, share=0.5),
]
NOT_WRITTEN = {"Metered"}
"""Of a benchmark, which runs in one process."""


def kinds_of_statistics() -> set[str]:
    """The names of every class of statistics in the package."""
    for module in pkgutil.walk_packages(neroli.__path__, "neroli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, open_ends = set(), [Statistic]
    while open_ends:
        subclasses = open_ends.pop().__subclasses__()
        open_ends += subclasses
        found |= {kind.__name__ for kind in subclasses if kind.__module__.startswith("neroli.")}
    return found


def test_every_statistic_of_the_package_is_tried_here() -> None:
    assert {type(example).__name__ for example in EXAMPLES} == kinds_of_statistics() - NOT_WRITTEN


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit, and of one type and precision."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if hasattr(one, "dtype"):
        return one.dtype == other.dtype and one.tolist() == other.tolist()
    if hasattr(one, "__dict__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def through_a_file(statistic: Statistic[Any], folder: Path) -> Statistic[Any]:
    """A fresh statistic of the same request, with what this one has gathered."""
    save_file(packed([statistic]), folder / "statistics.safetensors")
    fresh = next(copy.deepcopy(e) for e in EXAMPLES if type(e) is type(statistic))
    unpack(load_file(folder / "statistics.safetensors"), [fresh])
    return fresh


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_what_was_gathered_comes_back_from_a_file_and_can_be_gone_on_with(
    example: Statistic[Any], training: Activations, new: Activations, tmp_path: Path
) -> None:
    direct = copy.deepcopy(example)
    take_in([direct], training)
    back = through_a_file(direct, tmp_path)
    for field in fields(direct):
        if not field.init:
            assert same(getattr(back, field.name), getattr(direct, field.name))
    later, further = copy.deepcopy(example), through_a_file(direct, tmp_path)
    take_in([later], new)
    for statistic in (direct, further):
        statistic.merge(copy.deepcopy(later))
    assert same(further.finalize(), direct.finalize())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_nothing_gathered_comes_back_as_nothing(
    example: Statistic[Any], training: Activations, tmp_path: Path
) -> None:
    back = through_a_file(example, tmp_path)
    alone = copy.deepcopy(example)
    for statistic in (back, alone):
        take_in([statistic], training)
    assert same(back.finalize(), alone.finalize())


def test_single_precision_names_and_infinities_are_kept(head: LinearHead, tmp_path: Path) -> None:
    batch = random_activations(LinearHead(head.weight.float(), head.bias.float()), 40)
    strange = Activations(
        batch.features.float(), batch.logits.float(), batch.labels, ["ä\udc80\n"] * 40
    )
    for example in (
        LargestImages("features", 3),
        Reservoir("features", 50),
        Reservoir("logits", 3),
    ):
        direct, fresh = copy.deepcopy(example), copy.deepcopy(example)
        take_in([direct], strange)
        save_file(packed([direct]), tmp_path / "file")
        unpack(load_file(tmp_path / "file"), [fresh])
        assert same(fresh.finalize(), direct.finalize())
    empty, fresh = Extrema("features"), Extrema("features")
    empty._range = Range(-float("inf"), float("inf"))
    unpack(packed([empty]), [fresh])
    assert fresh.finalize() == empty._range


def test_statistics_of_another_fit_are_refused() -> None:
    with pytest.raises(ArtefactError, match=r"are Count where Count, Extrema were asked for"):
        unpack(packed([Count()]), [Count(), Extrema("features")])
    tensors = packed([Mean("features")])
    with pytest.raises(ArtefactError, match="damaged"):
        unpack({"layout": tensors["layout"][:-3]}, [Mean("features")])
    with pytest.raises(ArtefactError, match="damaged"):
        unpack({}, [Mean("features")])


def test_a_statistic_that_gathers_something_else_says_so() -> None:
    @dataclass
    class Odd(Count):
        _more: set[int] | None = accumulator()

    odd = Odd()
    odd._more = {1}
    with pytest.raises(TypeError, match="set cannot be gathered"):
        packed([odd])
