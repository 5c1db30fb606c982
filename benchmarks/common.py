"""What the benchmarks share: where real data are, paired timings, and memory of a process."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the networks and data sets that tests use too


def shared_data() -> Path:
    """The folder of real images and weights, or the end of the program."""
    from conftest import shared_folder

    path = shared_folder()
    if path is None:
        sys.exit("needs the real data: set NEROLI_SHARED")
    return path


def ratios_in_turn(
    jobs: Mapping[str, Callable[[], object]], base: Callable[[], object], rounds: int = 7
) -> dict[str, list[float]]:
    """Time of every job over that of ``base``, all run in turn, in rounds; of each round."""
    for job in (base, *jobs.values()):
        job()
    ratios: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        alone = _seconds(base)
        for name, job in jobs.items():
            ratios[name].append(_seconds(job) / alone)
    return ratios


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Their median, lowest and highest."""
    return statistics.median(values), min(values), max(values)


def paired_ratio(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 7
) -> tuple[float, float, float]:
    """Time of ``ours`` over ``theirs``, run in turn: median, lowest and highest of the pairs."""
    return spread(ratios_in_turn({"ours": ours}, theirs, rounds)["ours"])


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


class PeakMemory:
    """Highest anonymous memory (RssAnon) of this process inside the block, sampled, in MB.

    Pages of mapped files do not count: the kernel drops them when memory is short.
    """

    def __enter__(self) -> PeakMemory:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed memory the allocator still holds would hide a rise
        self.start = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
        raise OSError("this kernel does not report RssAnon")
