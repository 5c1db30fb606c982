"""How often the drift tests alarm when nothing has changed, and how soon when something has.

    python benchmarks/drift.py alarms [--streams 200] [--longest 100000]
    python benchmarks/drift.py ties [--streams 200] [--longest 10000]
    python benchmarks/drift.py repeats [--streams 200]
    python benchmarks/drift.py decay [--streams 200]
    python benchmarks/drift.py delays [--streams 100] [--detectors NAME ...]

``alarms``: every stream has its own calibration set of n images, and new ones of the same kind.
Beside the two tests stands what one would do without thinking of n: the Simple Jumper martingale
(Vovk et al. 2021) on p-values from the fixed calibration set, smoothed, at the same limit; and a
CUSUM designed for exactly the promised share. ``ties``: every fifth image has the same, lowest
score. ``repeats``: every new image comes several times in a row, as frames of a video nearly do.
``decay``: the delay after a long quiet time, of our martingale and of the Simple Jumper on
the same kind of fair bets.

``delays``: ResNet-20 of CIFAR-10, detectors fitted on 10,000 training images, calibrated on some of
the CIFAR-10 test images; the stream is of the others in random order, and after 2,000 of them some
share is from CIFAR-100. Rates are stated for the false-alarm rate 1%, half of it for each test.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import shared_data
from numpy.typing import NDArray

from neroli import fit
from neroli.calibration import Calibration, Promise
from neroli.detectors import create
from neroli.serve.cusum import designed
from neroli.serve.drift import RUN, Drift
from neroli.serve.martingale import bet, first_accounts, level_ranks

Found = NDArray[np.int64]
"""Of each stream, at which image it alarmed first; 0 if never."""
RATE = 0.01
CALIBRATIONS = (50, 100, 200, 500, 1000, 5000)
LENGTHS = (1_000, 10_000, 100_000)
QUIET = 2_000
"""Images before the change."""
DETECTORS = ("energy", "knn", "nero")
SHARES = (1.0, 0.3, 0.1)


def first_alarm(alarms: NDArray[np.bool_], found: Found, images: int) -> None:
    """Note the number of the image at which streams alarm first."""
    found[alarms & (found == 0)] = images


def fair_martingale(scores: NDArray[np.float64], calibration: NDArray[np.float64]) -> Found:
    """Our martingale on ``[R, T]`` scores and ``[R, n]`` calibration scores: first alarms [R]."""
    ranks = level_ranks(calibration.shape[1])
    ordered = -np.sort(-calibration, axis=1)
    limits = ordered[:, ranks - 1]  # at most this many calibration scores are higher
    accounts = first_accounts(len(scores))
    below = np.zeros(limits.shape)
    found = np.zeros(len(scores), np.int64)
    for t, new in enumerate(scores.T):
        chances = (ranks + below) / (calibration.shape[1] + 1 + t)
        # rank 1 + (calibration scores at least as high) up to k: the k-th highest is lower
        low = new[:, None] > limits
        accounts, capital = bet(accounts, chances, low, t)
        below += low
        first_alarm(capital >= 2 / RATE, found, t + 1)
    return found


def simple_jumper(p_values: NDArray[np.float64], limit: float = 2 / RATE) -> Found:
    """The Simple Jumper, epsilon -1, 0 and 1, jumping rate 0.01: first alarms of ``[R, T]``."""
    bets, jump = np.array([-1.0, 0.0, 1.0]), 0.01
    capital = np.full((len(p_values), 3), 1 / 3)
    scale = np.zeros(len(p_values))  # log of what the capital was divided by
    found = np.zeros(len(p_values), np.int64)
    for t, p in enumerate(p_values.T):
        capital = capital * (1 + bets * (p[:, None] - 0.5))
        total = capital.sum(axis=1)
        scale += np.log(total)
        first_alarm(scale >= np.log(limit), found, t + 1)
        capital = (1 - jump) * capital / total[:, None] + jump / 3
    return found


def cusum_alarms(flagged: NDArray[np.bool_], share: float) -> Found:
    """First alarms of the CUSUM for a share, of ``[R, T]`` verdicts."""
    chart = designed(share, RATE / 4, RUN)
    value = np.zeros(len(flagged), np.int64)
    found = np.zeros(len(flagged), np.int64)
    for t, new in enumerate(flagged.T):
        value = np.maximum(0, value + chart.step * new - 1)
        first_alarm(value >= chart.limit, found, t + 1)
    return found


def share_of(found: Found, length: int) -> str:
    return f"{np.mean((found > 0) & (found <= length)):.1%}"


def drawn(draw: np.random.Generator, shape: tuple[int, int], ties: bool) -> NDArray[np.float64]:
    scores = draw.random(shape)
    return np.maximum(scores, 0.2) if ties else scores


def false_alarms(streams: int, longest: int, ties: bool) -> None:
    """Print the share of streams that alarm though nothing has changed."""
    lengths = [length for length in LENGTHS if length <= longest]
    names = ("martingale", "CUSUM", "Simple Jumper, fixed p-values", "CUSUM for 5%")
    print("| n | " + " | ".join(f"{name}, {t:,}" for name in names for t in lengths) + " |")
    print("|" + "---|" * (1 + len(names) * len(lengths)))
    for n in CALIBRATIONS:
        found = [np.zeros(0, np.int64) for _ in names]
        for part in range(0, streams, 100):  # memory: 100 streams at a time
            draw = np.random.default_rng([n, part])
            calibration = drawn(draw, (min(100, streams - part), n), ties)
            scores = drawn(draw, (len(calibration), longest), ties)
            ordered = np.sort(calibration, axis=1)
            at_least = n - np.stack(
                [np.searchsorted(*pair) for pair in zip(ordered, scores, strict=True)]
            )
            flagged = scores > ordered[:, [Promise().rank(n) - 1]]
            smoothed = (at_least + draw.random(scores.shape)) / (n + 1)
            results = (
                fair_martingale(scores, calibration),
                cusum_alarms(flagged, Drift(n, RATE).flagged_share),
                simple_jumper(smoothed),
                cusum_alarms(flagged, Promise().false_alarm_rate),
            )
            found = [np.concatenate(pair) for pair in zip(found, results, strict=True)]
        cells = [share_of(alarms, length) for alarms in found for length in lengths]
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


def repeats(streams: int) -> None:
    """Print the share of streams of 10,000 images that alarm if each comes several times."""
    print("| times in a row | martingale | CUSUM |\n|---|---|---|")
    n = 1_000
    for times in (1, 2, 5, 10):
        draw = np.random.default_rng(times)
        calibration = draw.random((streams, n))
        scores = np.repeat(draw.random((streams, 10_000 // times)), times, axis=1)
        flagged = scores > np.sort(calibration, axis=1)[:, [Promise().rank(n) - 1]]
        found = (
            fair_martingale(scores, calibration),
            cusum_alarms(flagged, Drift(n, RATE).flagged_share),
        )
        print(f"| {times} | {' | '.join(share_of(alarms, 10_000) for alarms in found)} |")


def decay(streams: int) -> None:
    """Print the delay after quiet times: 20% of new scores are then above all but 5%."""
    print("| quiet images | martingale | Simple Jumper |\n|---|---|---|")
    n = 5_000
    for quiet in (1_000, 10_000, 100_000):
        draw = np.random.default_rng(quiet)
        found = []
        for _ in range(0, streams, 50):
            calibration = draw.random((50, n))
            scores = draw.random((50, quiet + 3_000))
            changed = draw.random(scores.shape) < 0.2
            changed[:, :quiet] = False
            scores = np.where(changed, 0.95 + 0.05 * scores, scores)
            found.append((fair_martingale(scores, calibration), simple_jumper(1 - scores)))
        cells = []
        for alarms in map(np.concatenate, zip(*found, strict=True)):
            late = np.where(alarms == 0, quiet + 3_000, alarms) - quiet
            cells.append(f"{np.median(late):.0f}" if np.median(late) < 3_000 else "over 3,000")
        print(f"| {quiet:,} | {' | '.join(cells)} |", flush=True)


def delay(drift: Drift, calibration: Calibration, stream: torch.Tensor) -> tuple[int, ...]:
    """At which image of a stream of scores the two tests alarm; 0 if they do not."""
    none = torch.zeros(len(stream), dtype=torch.int64)
    verdicts = calibration.verdicts(stream, none)
    p_values, flagged = verdicts.p_value.tolist(), verdicts.is_ood.tolist()
    for start in range(0, len(stream), 100):
        drift.update(p_values[start : start + 100], flagged[start : start + 100])
        if len(drift.alarms) == 2:
            break
    return drift.alarms.get("martingale", 0), drift.alarms.get("cusum", 0)


def delays(streams: int, names: list[str], folder: Path) -> None:
    """Print how many images after the change the tests alarm."""
    from cifar import extract_set

    stores = {
        name: extract_set(shared_data(), "resnet20", name, folder)
        for name in ("train", "test", "cifar100")
    }
    head = stores["train"].head
    detectors = [create(name) for name in names]
    fit(detectors, stores["train"], head)
    inside, outside = stores["test"].load(), stores["cifar100"].load()
    print("| detector | n | flagged before | CIFAR-100 | martingale | CUSUM | before the change |")
    print("|---|---|---|---|---|---|---|")
    for name, detector in zip(names, detectors, strict=True):
        scores, others = detector.score(inside).double(), detector.score(outside).double()
        for n in (200, 1000, 5000):
            for share in SHARES:
                print(row(name, scores, others, n, share, streams), flush=True)


def row(
    name: str, inside: torch.Tensor, outside: torch.Tensor, n: int, share: float, streams: int
) -> str:
    """Median and 90% of the delays, and the share of streams with an alarm before the change."""
    found, flagged = [], []
    for stream in range(streams):
        draw = torch.Generator().manual_seed(stream)
        order = torch.randperm(len(inside), generator=draw)
        zeros = torch.zeros(n, dtype=torch.int64)
        calibration = Calibration(inside[order[:n]], zeros, 1, Promise())
        quiet, after = inside[order[n:]].split([QUIET, len(inside) - n - QUIET])
        changed = torch.rand(len(after), generator=draw) < share
        which = torch.randint(len(outside), (len(after),), generator=draw)
        after = torch.where(changed, outside[which], after)
        flagged.append(float(calibration.is_ood(quiet, torch.zeros(QUIET).long()).double().mean()))
        found.append(delay(Drift.of(calibration, RATE), calibration, torch.cat([quiet, after])))
    cells = []
    for alarms in np.array(found).T:
        late = np.where(alarms == 0, np.inf, alarms - QUIET)
        late = late[late > 0]
        middle, most = (np.quantile(late, q, method="higher") for q in (0.5, 0.9))
        cells.append(" / ".join("none" if np.isinf(x) else f"{x:.0f}" for x in (middle, most)))
    early = np.mean([any(0 < a <= QUIET for a in alarms) for alarms in found])
    cells.append(f"{early:.0%}")
    return f"| {name} | {n} | {np.mean(flagged):.1%} | {share:.0%} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["alarms", "ties", "repeats", "decay", "delays"])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--longest", type=int, default=max(LENGTHS))
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "repeats":
        repeats(options.streams)
    elif options.what == "decay":
        decay(options.streams)
    elif options.what == "delays":
        with tempfile.TemporaryDirectory() as temporary:
            delays(options.streams, options.detectors, Path(temporary))
    else:
        false_alarms(options.streams, options.longest, options.what == "ties")
