"""``neroli score``: verdicts of a saved guard on a folder of images."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    ChannelsLast,
    Compile,
    Device,
    Engine,
    Every,
    Json,
    PathColumn,
    Precision,
    columns_named,
    emit,
    execution_with,
    images_or_store,
    list_unreadable,
    reported,
)
from neroli.cli.engines import (
    ActorCpus,
    ActorGpus,
    Actors,
    Address,
    BlockSize,
    StallAfter,
    own_device,
    ray_cluster,
    torchrun_workers,
)


def score(
    guard: Annotated[Path, typer.Argument(help="Folder of a saved guard.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of images or DICOM files, table, tar, array file, video, single image, or "
            "an activation store of the same model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .csv or .jsonl.")],
    model: Annotated[
        str | None, typer.Option(help="The model, if the guard does not say or it has moved.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, likewise.")] = None,
    path_column: PathColumn = None,
    every: Every = 1,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    precision: Precision = None,
    channels_last: ChannelsLast = None,
    compile: Compile = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    actor_cpus: ActorCpus = None,
    actor_gpus: ActorGpus = None,
    block_size: BlockSize = None,
    stall_after: StallAfter = None,
    as_json: Json = False,
) -> None:
    """Score every image of a source: predicted class, score, p-value and verdict, a row each.

    Interrupted, the same command goes on where it stopped.
    """
    with reported(as_json), contextlib.ExitStack() as stack:
        from neroli.artefact import read_manifest
        from neroli.errors import InvalidInput
        from neroli.files import text_digest
        from neroli.guard import Guard
        from neroli.models import load_saved_model, to
        from neroli.scale.blocks import divisible
        from neroli.scores import scored
        from neroli.store import ActivationStore

        cluster = ray_cluster(
            engine,
            device,
            address=address,
            actors=actors,
            actor_cpus=actor_cpus,
            actor_gpus=actor_gpus,
            block_size=block_size,
            stall_after=stall_after,
        )
        workers = stack.enter_context(torchrun_workers(engine))
        manifest = read_manifest(guard)
        columns = columns_named(path_column)
        source = images_or_store(images, columns, every)
        saved = load_saved_model(manifest.model_source, guard, model, weights)
        network = to(own_device(cluster, device, workers), saved)
        execution = execution_with(manifest.classifier.execution, precision, channels_last, compile)
        loaded = Guard.load(guard, network, execution=execution)
        loaded.check_calibrated()
        known = source.key if isinstance(source, ActivationStore) else source.fingerprint
        key = text_digest([manifest.model_dump_json(), str(known), str(execution)])
        if engine == "local":
            summary = scored(loaded, source, out, key, manifest, batch_size)
        elif isinstance(source, ActivationStore):
            raise InvalidInput(
                f"{str(images)!r} is an activation store, for which no network runs: score it "
                "with --engine local."
            )
        elif workers is not None:
            from neroli.scale.distributed_scores import scored_together

            pictures = divisible(source, images)
            found = scored_together(workers, loaded, pictures, out, key, manifest, batch_size)
            if found is None:
                return
            summary = found
        else:
            assert cluster is not None, "there is no other engine"
            from neroli.scale.ray_engine import score as score_on_ray

            with cluster:
                summary = score_on_ray(
                    loaded,
                    guard,
                    images,
                    source,
                    out,
                    cluster,
                    columns=columns,
                    model=model,
                    weights=weights,
                    device=device,
                    batch_size=batch_size,
                )
        assert loaded.held_out is not None
        facts: dict[str, Any] = {
            "scores": str(out),
            "images": summary.images,
            "flagged": summary.flagged,
            "promise": str(loaded.held_out.promise),
            "unreadable": [{"name": f.name, "reason": f.reason} for f in summary.failures],
        }
        list_unreadable(summary.failures)
        emit(as_json, facts, lambda: _text(facts))
        if summary.failures and workers is None:  # which torchrun would call a failure
            raise typer.Exit(SOME_UNREADABLE)


score.__doc__ = f"{score.__doc__}\n    {EXIT_CODES}"


def _text(facts: dict[str, Any]) -> str:
    readable = facts["images"] - len(facts["unreadable"])
    share = facts["flagged"] / readable if readable else 0.0
    return (
        f"Wrote {facts['images']} rows to {facts['scores']}: {facts['flagged']} of {readable} "
        f"readable images flagged as out of distribution ({share:.1%}), "
        f"{len(facts['unreadable'])} unreadable.\n"
        f"The threshold promises {facts['promise']}."
    )
