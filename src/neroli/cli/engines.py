"""The engines that ``neroli fit`` and ``neroli score`` run on, and the options of Ray."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from neroli.scale.distributed import Workers
    from neroli.scale.ray_cluster import RayCluster

ENGINES = ("local", "ray", "torchrun")

_PANEL = "With --engine ray"
Address = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a running cluster, or auto. [default: one started here, and ended]",
        rich_help_panel=_PANEL,
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that hold the model. [default: as many as fit]",
        rich_help_panel=_PANEL,
    ),
]
ActorCpus = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPUs of each, which read and decode. [default: 1]", rich_help_panel=_PANEL
    ),
]
ActorGpus = Annotated[
    float | None,
    typer.Option(
        help="GPUs of each, such as 0.5. [default: 1 with --device cuda]", rich_help_panel=_PANEL
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images that an actor is given at a time. [default: 1024]",
        rich_help_panel=_PANEL,
    ),
]
StallAfter = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="End the run when no block is finished for so many seconds. [default: 600]",
        rich_help_panel=_PANEL,
    ),
]


def ray_cluster(engine: str, device: str, **given: Any) -> RayCluster | None:
    """Where Ray runs, if that is the engine.

    Args:
        engine: one of ``ENGINES``.
        device: where the network runs.
        given: attributes of ``RayOptions``; None where the user said nothing.

    Raises:
        InvalidInput: if there is no such engine, or the options do not go together.
        EngineError: if Ray is not installed.
    """
    from neroli.errors import InvalidInput

    if engine not in ENGINES:
        raise InvalidInput(
            f"--engine takes {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, got {engine!r}."
        )
    said = {name: value for name, value in given.items() if value is not None}
    if engine != "ray":
        if said:
            name = next(iter(said)).replace("_", "-")
            raise InvalidInput(f"--{name} is an option of --engine ray: add that, or leave it out.")
        return None
    from neroli.scale.ray_cluster import RayCluster, RayOptions

    if ":" in device:
        raise InvalidInput(
            f"Ray gives every actor its GPU: say --device {device.partition(':')[0]}, not {device}."
        )
    gpus = said.setdefault("actor_gpus", 1.0 if device == "cuda" else 0.0)
    if (device == "cuda") != (gpus > 0):
        raise InvalidInput(
            f"--device {device} with --actor-gpus {gpus:g}: GPUs need --device cuda, and the other "
            "way round."
        )
    return RayCluster(RayOptions(**said))


def torchrun_workers(engine: str) -> AbstractContextManager[Workers | None]:
    """The processes that torchrun started, if it is the engine; see ``Workers.started``."""
    if engine != "torchrun":
        return nullcontext()
    from neroli.scale.distributed import Workers

    return Workers.started()


def own_device(cluster: RayCluster | None, device: str, workers: Workers | None = None) -> str:
    """Where the network of this process runs: with Ray it only looks at the first images."""
    if workers is not None:
        return workers.device(device)
    return device if cluster is None else "cpu"
