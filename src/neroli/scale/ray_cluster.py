"""The Ray cluster that the work runs on: one that is there, or one started on this machine."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from neroli.errors import EngineError, InvalidInput
from neroli.scale.blocks import BLOCK_SIZE

_OBJECT_STORE_BYTES = 200 * 2**20
"""Only the numbers of blocks go through it; images and activations stay on the file system."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what still runs after the end must not start Ray again
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # no messages among neroli's own on standard output
}
_CONNECT_WITHIN = 10.0
"""Seconds."""
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Despite its name it makes a local cluster listen on 127.0.0.1 alone on every system."""


@dataclass(frozen=True)
class RayOptions:
    """How the work is run on Ray.

    Attributes:
        address: of a cluster that is running; None starts one on this machine and ends it after.
        actors: processes that hold the model; None takes as many as fit.
        actor_cpus: CPUs of each.
        actor_gpus: GPUs of each; may be a fraction.
        block_size: images that an actor is given at a time.
        stall_after: seconds without a finished block after which the run ends.
    """

    address: str | None = None
    actors: int | None = None
    actor_cpus: int = 1
    actor_gpus: float = 0.0
    block_size: int = BLOCK_SIZE
    stall_after: float = 600.0


class RayCluster:
    """A connection to Ray, made when it is first needed and ended with the context.

    Args:
        options: where, and how many actors.

    Raises:
        EngineError: if Ray is not installed.
    """

    def __init__(self, options: RayOptions) -> None:
        self.options = options
        if importlib.util.find_spec("ray") is None:
            raise EngineError(
                "--engine ray needs Ray: install neroli with its [ray] extra "
                "(pip install 'neroli[ray]')."
            )
        self._ray: Any = None
        self._to_end: Any = None
        self.is_lost = False
        """Whether its head is gone; Ray would wait for it in whatever it is asked."""

    @property
    def ray(self) -> Any:
        """The module, connected.

        Raises:
            EngineError: if there is no such cluster, or it does not start.
        """
        if self._ray is None:
            self._ray = self._connected()
        return self._ray

    def actors(self, blocks: int) -> int:
        """How many actors to start for so many blocks.

        Raises:
            EngineError: if not one fits beside the CPU that is left for reading, or not as many as
                were asked for.
        """
        options = self.options
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        room = actors_that_fit(nodes, options.actor_cpus, options.actor_gpus)
        if room < (options.actors or 1):
            raise EngineError(
                f"{self._asked(options.actors or 1)} asked for, but {room or 'none'} can be had: "
                f"the cluster has {_said(_total(nodes))}, one CPU of which is left for reading. "
                "Ask for fewer or smaller actors, add nodes, or run with --engine local."
            )
        return min(options.actors or room, blocks)

    def stalled(self, actors: int, done: int, blocks: int) -> EngineError:
        """What to raise when no block was finished for too long."""
        free = self.ray.available_resources()
        return EngineError(
            f"No block was finished for {self.options.stall_after:g} s, {done} of {blocks} are: "
            f"{self._asked(actors)} asked for, and the cluster has "
            f"{_said(self.ray.cluster_resources())}, free {_said(free)}. Others may use it, or an "
            "actor hangs; if blocks merely take longer, raise --stall-after or lower --block-size. "
            "Finished blocks are kept: the same command goes on."
        )

    def check_alive(self) -> None:
        """Raise EngineError if the cluster's head is gone; Ray would wait, then die silently."""
        address = self.ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), _CONNECT_WITHIN).close()
        except OSError as error:
            self.is_lost = True
            raise EngineError(
                f"The head of the Ray cluster at {address} is gone ({error}). Finished blocks are "
                "kept: the same command goes on, once there is a cluster."
            ) from None

    def logs(self) -> str:
        """Where Ray's own logs are."""
        return str(self.ray._private.worker._global_node.get_logs_dir_path())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._to_end is not None and not self.is_lost:
            self._to_end.shutdown()

    def _connected(self) -> Any:
        address = self.options.address
        os.environ.update(_SETTINGS if address else _SETTINGS | _LOOPBACK_ONLY)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to stderr
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
        log = logging.getLogger("ray.data")
        for handler in list(log.handlers):  # some are also the root logger's, and stay there
            if isinstance(handler, logging.StreamHandler):
                log.removeHandler(handler)  # its log file has everything
        if ray.is_initialized():
            return ray
        if address:
            _check_reachable(address, ray)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        search_path = os.environ.get("PYTHONPATH")
        if address and search_path:  # a cluster started here inherits it
            quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": search_path}}
        local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        self._to_end = ray  # also what was only half started
        try:
            with _silent():
                ray.init(**quiet, **({"address": address} if address else local))
        except Exception as error:  # whatever Ray meets on the network or this machine
            what = f"connect to the Ray cluster {address!r}" if address else "start Ray here"
            raise EngineError(f"Cannot {what}: {' '.join(str(error).split())[:300]}") from None
        return ray

    def _asked(self, actors: int) -> str:
        """How a sentence about actors begins."""
        each = _said({"CPU": self.options.actor_cpus, "GPU": self.options.actor_gpus})
        return f"1 actor of {each} was" if actors == 1 else f"{actors} actors of {each} were"


def _check_reachable(address: str, ray: Any) -> None:
    """Raise EngineError if nothing listens at HOST:PORT, which Ray itself would wait for."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # as Ray takes it
    try:
        socket.create_connection((host, int(port)), _CONNECT_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"There is no Ray cluster at {address!r} ({error}): start one with `ray start --head`, "
            "or leave --address out."
        ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what Ray's C++ part says on standard error as it starts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def actors_that_fit(
    nodes: Iterable[Mapping[str, float]], actor_cpus: int, actor_gpus: float
) -> int:
    """How many actors fit on the nodes, with at least one CPU of the cluster left for reading.

    Args:
        nodes: of each its ``CPU`` and ``GPU``.
        actor_cpus, actor_gpus: of one actor.

    Raises:
        InvalidInput: if an actor has no CPU or a negative number of GPUs.
    """
    if actor_cpus < 1 or actor_gpus < 0:
        raise InvalidInput(
            f"An actor must have 1 CPU or more and no negative number of GPUs, got {actor_cpus} "
            f"and {actor_gpus:g}."
        )
    fit, cpus = 0, 0.0
    for node in nodes:
        here = int(node.get("CPU", 0) // actor_cpus)
        if actor_gpus:
            each = int(1 / actor_gpus + 1e-9) if actor_gpus < 1 else 1 / actor_gpus
            here = min(here, int(node.get("GPU", 0) * each + 1e-9))
        fit += here
        cpus += node.get("CPU", 0)
    return fit if cpus - fit * actor_cpus >= 1 else max(fit - 1, 0)


def _total(nodes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total = {"CPU": 0.0, "GPU": 0.0}
    for node in nodes:
        for kind in total:
            total[kind] += node.get(kind, 0)
    return total


def _said(resources: Mapping[str, float]) -> str:
    gpus = resources.get("GPU", 0)
    return f"{resources.get('CPU', 0):g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
