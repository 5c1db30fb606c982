"""Work on blocks through Ray Data: every block once, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from neroli.errors import EngineError, NeroliWarning
from neroli.progress import progress_bar
from neroli.scale.ray_cluster import RayCluster
from neroli.scale.ray_work import Actor, Work
from neroli.scale.watchdog import READER, watched

_END_WITHIN = 10.0
"""Seconds."""


def run(work: Work, cluster: RayCluster, *, progress: bool | None = None) -> None:
    """Work on every block that is not finished yet.

    Args:
        work: what to do with a block.
        cluster: where; it is not used if every block is finished.
        progress: show a progress bar; None does so on a terminal.

    Raises:
        EngineError: if the cluster is too small, no block is finished for too long, one of them
            fails, or a worker dies on the same one again and again. What was finished is kept.
    """
    blocks = work.blocks
    waiting = [number for number in range(len(blocks)) if not work.is_done(number)]
    if not waiting:
        return
    actors = cluster.actors(len(waiting))
    left = set(waiting)

    def images() -> int:
        return blocks.images - sum(len(blocks[number]) for number in left)

    rows = watched(
        _rows(work, waiting, actors, cluster),
        cluster.options.stall_after,
        lambda: cluster.stalled(actors, len(blocks) - len(left), len(blocks)),
        cluster.check_alive,
    )
    try:
        with progress_bar(blocks.images, images(), progress) as advance:
            for row in rows:
                if row["error"]:
                    raise EngineError(row["error"])
                if row["died"]:
                    warnings.warn(
                        f"The process that worked on block {row['block']} died on {row['died']}; "
                        "another one finished it.",
                        NeroliWarning,
                        stacklevel=2,
                    )
                left.remove(row["block"])
                advance(images())
    except BaseException:
        if not cluster.is_lost:
            _stop()
        raise


def _stop() -> None:
    """End what Ray Data still does: Ray cannot be left while its threads wait for results."""
    for thread in threading.enumerate():
        if thread.name.startswith("StreamingExecutor") and hasattr(thread, "shutdown"):
            with contextlib.suppress(Exception):  # it is to end either way
                thread.shutdown(force=True)
    for thread in threading.enumerate():
        if thread.name == READER:
            thread.join(_END_WITHIN)


def _rows(
    work: Work, waiting: list[int], actors: int, cluster: RayCluster
) -> Iterator[dict[str, Any]]:
    """What the actors say of each block, in the order in which they finish."""
    ray, options = cluster.ray, cluster.options
    dataset = ray.data.from_items(
        [{"block": number} for number in waiting], override_num_blocks=len(waiting)
    ).map(
        Actor,
        fn_constructor_args=(work, list(sys.path)),
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=options.actor_cpus,
        num_gpus=options.actor_gpus,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.enable_operator_progress_bars = False
    try:
        for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
            yield {name: column.tolist()[0] for name, column in batch.items()}
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"The work on Ray failed: {' '.join(str(error).split())[:300]} Ray's logs are in "
            f"{cluster.logs()!r}. Finished blocks are kept: the same command goes on."
        ) from None
