"""Time and memory of every head-level detector, beside pytorch-ood's where it has the method.

    python benchmarks/detectors.py [--setting cifar100 imagenet] [--only NAME ...] [--rounds 5]
    python benchmarks/detectors.py --together NAME

Both are given the same synthetic activations in memory (50,000 training images, rectified features
around one centre a class) and score the same batches of 256 new rows. Where theirs works out logits
itself, the head's product is part of ours too. Figures are medians of rounds in which both run in
turn, ratios those of the rounds with lowest and highest; slow ones get fewer rounds, and score as
many batches as they manage in some seconds. Memory is what is needed at most beyond the
activations. Each computes in one thread, and its processor time counts: on a shared machine the
time by the clock is that of the neighbours.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from common import PeakMemory
from threadpoolctl import threadpool_limits
from torch import Tensor

from neroli import Activations, LinearHead, fit
from neroli.detectors import Detector, catalogue, create
from neroli.errors import NeroliWarning
from peers import PEERS, Peer  # of tests/

TRAINING, NEW, BATCH, ROWS = 50_000, 5_120, 256, 10_000
SCORING_SECONDS = 4.0
"""Once scoring has taken this long, the batches done are enough."""
ENOUGH_SECONDS = 15.0
"""No further round is begun once those of a detector have taken this long."""
QUICK_SECONDS = 2.0
"""Up to here there are more rounds than asked for: quick ones scatter most."""
ROUNDING = {"mahalanobis", "relative_mahalanobis", "vim"}
"""They learn a covariance in float64 where theirs takes float32: their bound is 2.5, not 1.1."""

Fit = Callable[[], Callable[[Tensor, Tensor], object]]
"""Fits, and returns what scores features and logits."""


@dataclass(frozen=True)
class Setting:
    """A size of network.

    Args:
        features, classes: D and C.
        too_large: our detectors that are left out, and why.
        peers_too_large: theirs that are left out, and why.
    """

    features: int
    classes: int
    too_large: dict[str, str] = field(default_factory=dict)
    peers_too_large: dict[str, str] = field(default_factory=dict)


SETTINGS = {
    "cifar100": Setting(512, 100),
    "imagenet": Setting(
        2048,
        1000,
        {"weiper_kld": "its 100 heads of 1,000 classes would take days to fit"},
        {"fdbd": "it makes an array of C x C x D, 8.2 GB"},
    ),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of fitting, milliseconds of scoring 1,000 rows, and MB of memory at most."""

    fit: float
    score: float
    memory: float

    @property
    def total(self) -> float:
        """Seconds of fitting and of scoring 10,000 rows."""
        return self.fit + self.score * ROWS / 1e6


def synthetic(setting: Setting) -> tuple[LinearHead, Activations, Activations]:
    """A head, training activations and new ones; most are classified correctly."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(setting.classes, setting.features, generator=draw)
    head = LinearHead(weight / setting.features**0.5, torch.zeros(setting.classes))

    def features(labels: Tensor, strength: float) -> Tensor:
        values = torch.randn(len(labels), setting.features, generator=draw)
        for part, of in zip(values.split(1024), labels.split(1024), strict=True):
            part.add_(weight[of], alpha=strength).sub_(0.3).clamp_(min=0)
        return values

    labels = torch.arange(TRAINING) % setting.classes
    training = Activations.from_features(features(labels, 1.0), head, labels)
    new = features(torch.arange(NEW) % setting.classes, 0.5)
    return head, training, Activations.from_features(new, head)


def our_fit(detector: Detector, training: Activations, head: LinearHead, peer: Peer | None) -> Fit:
    """Ours, which starts from features alone where theirs does."""

    def run() -> Callable[[Tensor, Tensor], object]:
        given = training
        if peer is not None and peer.fits_from_features:
            given = Activations.from_features(training.features, head, training.labels)
        detector.fit(given, head)
        if peer is not None and peer.from_features:
            return lambda features, _: detector.score(Activations.from_features(features, head))
        return lambda features, logits: detector.score(Activations(features, logits))

    return run


def their_fit(peer: Peer, training: Activations, head: LinearHead) -> Fit:
    def run() -> Callable[[Tensor, Tensor], object]:
        score = peer.fit(training, head)
        return lambda features, logits: score(Activations(features, logits))

    return run


def measured(job: Fit, new: Activations) -> Cost:
    """One round: fit, and score as many batches as there are or time allows."""
    with PeakMemory() as memory:
        start = time.thread_time()
        score = job()
        fitted, clock = time.thread_time(), time.perf_counter()
        rows, end = 0, fitted
        for features, logits in zip(
            new.features.split(BATCH), new.logits.split(BATCH), strict=True
        ):
            score(features, logits)
            rows, end = rows + len(features), time.thread_time()
            if time.perf_counter() - clock > SCORING_SECONDS:
                break
    return Cost(fitted - start, 1e6 * (end - fitted) / rows, memory.peak - memory.start)


def in_turn(jobs: Sequence[Fit], new: Activations, rounds: int) -> list[list[Cost]]:
    """Rounds of costs, one of each job; the first round of quick jobs only warms them up."""
    start = time.perf_counter()
    first = [measured(job, new) for job in jobs]
    done: list[list[Cost]] = []
    while (spent := time.perf_counter() - start) < ENOUGH_SECONDS and (
        len(done) < rounds or (spent < QUICK_SECONDS and len(done) < 10 * rounds)
    ):
        done.append([measured(job, new) for job in jobs])
    done = done or [first]
    # later rounds reuse memory that the first one had to ask for
    return [
        [Cost(c.fit, c.score, max(c.memory, f.memory)) for c, f in zip(costs, first, strict=True)]
        for costs in done
    ]


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(c.fit for c in costs),
        statistics.median(c.score for c in costs),
        max(c.memory for c in costs),
    )


def cells(cost: Cost) -> list[str]:
    return [f"{cost.fit:.2f}", f"{cost.score:.2f}", f"{cost.memory:.0f}"]


def ratio_cell(ratios: Sequence[float]) -> str:
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


@dataclass
class Report:
    """The table of a setting as it grows, and what is to be said below it."""

    ratios: dict[str, float] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    fits: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, rounds: list[list[Cost]], remark: str = "") -> None:
        """A row of a detector and, where there is one, its peer."""
        own = median([costs[0] for costs in rounds])
        self.fits[name] = own.fit
        row = [f"`{name}`", *cells(own)]
        if len(rounds[0]) == 2:
            row += cells(median([costs[1] for costs in rounds]))
            fits = [a.fit / b.fit for a, b in rounds]
            scores = [a.score / b.score for a, b in rounds]
            totals = [a.total / b.total for a, b in rounds]
            slight = own.fit < 1e-3  # neither learns anything
            row += ["" if slight else ratio_cell(fits), ratio_cell(scores), ratio_cell(totals)]
            self._judge(name, own, statistics.median(totals))
        else:
            row += [remark, *[""] * 5]
        print("| " + " | ".join(row) + " |", flush=True)

    def _judge(self, name: str, own: Cost, ratio: float) -> None:
        self.ratios[name] = ratio
        bound = 2.5 if name in ROUNDING else 1.1
        each = 1e3 * own.total / (ROWS / 1000)
        if ratio > bound and each >= 1:
            self.misses.append(f"{name}: {ratio:.2f} (bound {bound}; {each:.2f} ms a 1,000 rows)")

    @property
    def geometric_mean(self) -> float:
        """Of the ratios of all that pytorch-ood has too."""
        return math.exp(statistics.mean(map(math.log, self.ratios.values())))

    def conclude(self) -> None:
        if self.ratios:
            print(f"\nGeometric mean of {len(self.ratios)} ratios: {self.geometric_mean:.3f}")
            print("Above their bound: " + ("; ".join(self.misses) or "none"), flush=True)


def together(setting: Setting, names: Sequence[str], slowest: str) -> None:
    """Print how long fitting all in one go takes, beside fitting the slowest of them alone."""
    head, training, _ = synthetic(setting)
    names = [name for name in names if name not in setting.too_large]
    seconds = []
    for group in (names, [slowest]):
        start = time.thread_time()
        fit([create(name) for name in group], training, head)
        seconds.append(time.thread_time() - start)
    print(
        f"{len(names)} detectors fitted together in {seconds[0]:.1f} s, the slowest of them alone "
        f"({slowest}) in {seconds[1]:.1f} s: {seconds[0] / seconds[1]:.2f}",
        flush=True,
    )


def table(setting: Setting, names: Sequence[str], rounds: int) -> Report:
    """Print the table of a setting, and what is to be said of it."""
    head, training, new = synthetic(setting)
    report = Report()
    for name in names:
        if name in setting.too_large:
            print(f"| `{name}` | {setting.too_large[name]} |" + " |" * 8)
            continue
        peer = PEERS.get(name)
        detector = create(name) if peer is None else peer.ours(setting.features)
        jobs = [our_fit(detector, training, head, peer)]
        remark = setting.peers_too_large.get(name, "")
        if peer is not None and not remark:
            jobs.append(their_fit(peer, training, head))
        report.add(name, in_turn(jobs, new, rounds), remark)
        del detector, jobs
        gc.collect()
    report.conclude()
    return report


def head_level() -> list[str]:
    """Names of the detectors that need nothing but features, logits and head."""
    return [name for name in catalogue.ready_names() if not catalogue.requirements(create(name))]


HEADER = """
| detector | fit, s | score, ms per 1,000 | MB | theirs: fit, s | score | MB \
| fit ratio | score ratio | both, 10,000 rows |
|---|---|---|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--only", nargs="+", default=head_level(), choices=head_level())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--together", metavar="SLOWEST", help="fit all at once and this one alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore", NeroliWarning)
    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy and scikit-learn
    for name in options.setting:
        size = SETTINGS[name]
        if options.together:
            together(size, options.only, options.together)
            continue
        print(f"\n**{name}**: D = {size.features}, C = {size.classes}{HEADER}", flush=True)
        table(size, options.only, options.rounds)
