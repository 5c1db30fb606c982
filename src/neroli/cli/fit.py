"""``neroli fit``: fit and calibrate a guard."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    ChannelsLast,
    ClassMap,
    Compile,
    Crop,
    Device,
    Engine,
    Every,
    GroupColumn,
    Head,
    Interpolation,
    Json,
    LabelColumn,
    LowAgreement,
    Model,
    PathColumn,
    PerChannel,
    Precision,
    Resize,
    StoreDtype,
    Training,
    Weights,
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


def fit(
    model: Model,
    train: Training,
    calibration: Annotated[
        Path,
        typer.Option(help="Held-out images of the same kind, not used in training; no labels."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to save the guard in.")],
    weights: Weights = None,
    head: Head = None,
    detector: Annotated[
        str, typer.Option(help="By name, as `neroli detectors` lists them; see docs/default.md.")
    ] = "ensemble",
    setting: Annotated[
        list[str],
        typer.Option("--set", help="A hyper-parameter, NAME=VALUE; may be repeated."),
    ] = [],  # noqa: B006  # typer makes a new one of it
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of in-distribution images that may be flagged.")
    ] = 0.05,
    guarantee: Annotated[
        str, typer.Option(help="'confidence' holds for this calibration set, 'average' on average.")
    ] = "confidence",
    confidence: Annotated[float, typer.Option(help="How sure 'confidence' is.")] = 0.9,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A threshold for every class with enough images.")
    ] = False,
    class_map: ClassMap = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: PerChannel = None,
    std: PerChannel = None,
    interpolation: Interpolation = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    every: Every = 1,
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the activations in, for other detectors.")
    ] = None,
    store_dtype: StoreDtype = None,
    keep_examples: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Keep thumbnails of N training images in the guard, for `neroli explain` to show "
            "the nearest; thumbnails of patients' images are patient data.",
        ),
    ] = 0,
    allow_low_agreement: LowAgreement = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n",
            help="Only run the network on the i-th of n parts of the images; when all are done, "
            "`neroli merge` fits and calibrates.",
        ),
    ] = None,
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
    """Fit a detector on a classifier's training images and calibrate its threshold.

    Interrupted, the same command goes on where it stopped.
    """
    given = locals()
    with reported(as_json), contextlib.ExitStack() as stack:
        from neroli.cli.fit_report import report_fit, report_shard
        from neroli.cli.fit_run import FitRun
        from neroli.errors import InvalidInput
        from neroli.scale.job import FitOptions
        from neroli.scale.partition import Shard

        part = None if shard is None else Shard.parse(shard)
        options = FitOptions(**{name: given[name] for name in FitOptions.model_fields})
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
        if part is not None and engine != "local":
            raise InvalidInput(f"--shard is for --engine local, which {engine} does without.")
        workers = stack.enter_context(torchrun_workers(engine))
        where = own_device(cluster, device, workers)
        run = FitRun(options, batch_size=batch_size, device=where)
        if part is None and workers is None:
            run.check_unshared()
        if cluster is not None:
            run.need_network("--engine ray")
            from neroli.scale.ray_engine import RayExtractor

            stack.enter_context(cluster)
            classifier = run.guard.classifier
            run.extractor = RayExtractor(
                classifier, cluster, model, weights, device, run.columns, batch_size, run.dtype
            ).extract
        if part is not None:
            report_shard(run, part, as_json)
            return
        if workers is None:
            run.learn()
        else:
            run.learn_together(workers)
            if workers.rank > 0:
                return
        run.conclude()
        report_fit(run, as_json)
        if run.guard.unreadable and workers is None:  # which torchrun would call a failure
            raise typer.Exit(SOME_UNREADABLE)


fit.__doc__ = f"{fit.__doc__}\n    {EXIT_CODES}"
