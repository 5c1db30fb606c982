"""The bounds that neroli keeps, each measured: one table of ratios with their spread, and JSON.

    python benchmarks/budget.py [--only scoring heatmaps ...] [--rounds 5] [--json budget.json]

Every ratio is of jobs run in turn in one process; half an hour on two cores. The parts are those
of the other files here, which print more.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from common import spread
from heatmaps import timings
from out_of_core import TOGETHER, run_apart, write
from scoring import APART, imagenet_sized_line, on_resnet50

from detectors import HEADER, SETTINGS, head_level, table
from neroli.detectors import DEFAULT
from neroli.errors import NeroliWarning
from peers import PEERS  # of tests/


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        what: is measured.
        values: of each round.
        bound: what their median may be at most; None if it is told, not bound.
        unit: of the values, where they are no ratios.
        remark: what is to be said beside.
    """

    what: str
    values: list[float]
    bound: float | None = None
    unit: str = ""
    remark: str = field(default="", kw_only=True)

    @property
    def kept(self) -> bool | None:
        """Whether the median keeps the bound."""
        return None if self.bound is None else spread(self.values)[0] <= self.bound

    def row(self) -> str:
        median, low, high = spread(self.values)
        lowest = f" ({low:.3g} to {high:.3g})" if len(self.values) > 1 else ""
        bound = "" if self.bound is None else f"{self.bound:g}"
        kept = {True: "kept", False: "**exceeded**", None: ""}[self.kept]
        unit = f" {self.unit}" * bool(self.unit)
        return (
            f"| {self.what} | {median:.3g}{unit}{lowest} | {bound}{unit} | {kept} | {self.remark} |"
        )


def scoring(rounds: int) -> Iterator[Figure]:
    """Scoring over the bare forward loop; ITP and WeiPer+KLD, and 1,000 classes, are told."""
    for classes in (10, 100, 1000):
        many = classes > 100
        for name, ratios in on_resnet50(classes, rounds).items():
            bound: float | None = 1.03
            if name in APART or (many and name.startswith("the other")):
                bound = None
            elif (name == "line" and many) or name == DEFAULT or name.startswith("the other"):
                bound = 1.15
            what = f"scoring with {name} / forward, ResNet-50 at 224, C={classes}"
            yield Figure(what, ratios, bound)


def memory(rounds: int) -> Iterator[Figure]:
    """Memory that does not grow with the number of images."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in (50_000, 1_000_000):
            write(Path(folder) / str(rows), rows, 512, 100, None)
            costs.append(run_apart(TOGETHER, Path(folder) / str(rows)))
    few, many = costs
    what = "fitting all from a store, anonymous memory above the start, 1 M x 512 / 50 k x 512"
    remark = f"{few.fit_memory:.0f} and {many.fit_memory:.0f} MB, "
    remark += f"{few.fit_seconds:.0f} and {many.fit_seconds:.0f} s"
    yield Figure(what, [many.fit_memory / few.fit_memory], 1.1, remark=remark)


def line(rounds: int) -> Iterator[Figure]:
    """LINe at the size of ImageNet."""
    found = imagenet_sized_line()
    remark = f"fitted in {found.fit:.0f} s"
    yield Figure("LINe at C=1000, D=2048: state", [found.state], 64, "MB", remark=remark)
    largest = 4 * 256 * 1000 * 2048 / 1e6  # of an array B x C x D
    what = "LINe there, a batch of 256: memory / an array of B x C x D"
    yield Figure(what, [found.memory / largest], 0.1, remark=f"{found.score:.2f} s")


def peers(rounds: int) -> Iterator[Figure]:
    """Fitting and scoring 10,000 rows over pytorch-ood."""
    print(HEADER)
    report = table(SETTINGS["cifar100"], [n for n in head_level() if n in PEERS], rounds)
    what = "fit and score / pytorch-ood 0.4.0, geometric mean"
    ratios = report.ratios.values()
    remark = f"{len(ratios)} detectors, {min(ratios):.2g} to {max(ratios):.2g}"
    yield Figure(what, [report.geometric_mean], 1, remark=remark)
    remark = "; ".join(report.misses)
    yield Figure("detectors above their own bound", [len(report.misses)], 0, remark=remark)


def heatmaps(rounds: int) -> Iterator[Figure]:
    """A heat map over one forward pass."""
    for timed in timings(rounds):
        what = f"heat map / forward, {timed.network} at {timed.side}"
        yield Figure(what, timed.ratios, 10, remark=timed.rules)


def start(rounds: int) -> Iterator[Figure]:
    """How long the command line takes to say what it can."""
    command, seconds = [sys.executable, "-m", "neroli", "--help"], []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    yield Figure("neroli --help", seconds, 0.3, "s")


PARTS: dict[str, Callable[[int], Iterator[Figure]]] = {
    part.__name__: part for part in (start, heatmaps, line, scoring, peers, memory)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", NeroliWarning)
    figures: list[Figure] = []
    for name in options.only:
        figures += PARTS[name](options.rounds)
        print(f"{name} is measured", file=sys.stderr)
    print("\n| what | median (lowest to highest) | bound | | |\n|---|---|---|---|---|")
    print("\n".join(figure.row() for figure in figures))
    if options.json:
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        machine["processor"] = platform.processor() or platform.machine()
        found = [asdict(figure) | {"kept": figure.kept} for figure in figures]
        options.json.write_text(json.dumps({"machine": machine, "figures": found}, indent=2))


if __name__ == "__main__":
    main()
