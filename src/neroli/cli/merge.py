"""``neroli merge``: finish a fit whose images were extracted in shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neroli.cli.common import (
    EXIT_CODES,
    SOME_UNREADABLE,
    BatchSize,
    Device,
    Json,
    LowAgreement,
    emit,
    reported,
)

if TYPE_CHECKING:
    from neroli.scale.job import Job
    from neroli.scale.partition import Shard


def merge(
    folder: Annotated[
        Path,
        typer.Argument(help="Where the shards are: --store of `neroli fit`, or OUT.partial."),
    ],
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n",
            help="Only gather what the next fitting pass asks for, on the i-th of the n shards.",
        ),
    ] = None,
    allow_low_agreement: LowAgreement = False,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Join the shards of `neroli fit ... --shard i/n`, fit, calibrate and save the guard.

    Without --shard this process makes every pass over the activations.

    With it, one job for each shard makes one pass; repeat that until it says that none is left.

    It may be fewer times: without --shard the passes that remain are made.

    Interrupted, the same command goes on.
    """
    with reported(as_json):
        from neroli.cli.fit_report import report_fit
        from neroli.cli.fit_run import FitRun
        from neroli.files import locked
        from neroli.scale.job import FILE, MERGED, Job, clear_merged
        from neroli.scale.partition import Shard
        from neroli.scale.rounds import Passes, Remaining
        from neroli.store import ActivationStore

        folder = folder.absolute()
        part = None if shard is None else Shard.parse(shard)
        if part is None and (folder / MERGED).exists() and not (folder / FILE).exists():
            with locked(folder, "merge of"):
                clear_merged(folder)
            said = f"The fit in {str(folder)!r} is merged already: what was left of it is deleted."
            emit(as_json, {"folder": str(folder), "merged_already": True}, lambda: said)
            return
        job = Job.read(folder)
        if part is not None:
            facts = _round(folder, job, part, batch_size, device)
            emit(as_json, facts, lambda: _text(facts))
            return
        with locked(folder, "merge of"):
            job = Job.read(folder)  # which another process may have merged by now
            run = FitRun(job.options, batch_size=batch_size, device=device, folder=folder)
            run.begin(job.shards)
            run.join(job.shards)
            remaining = Remaining(Passes(folder, job), ActivationStore(folder / "training"))
            run.learn(remaining.gathered)
            run.conclude(allow_low_agreement)
        report_fit(run, as_json)
        if run.guard.unreadable:
            raise typer.Exit(SOME_UNREADABLE)


merge.__doc__ = f"{merge.__doc__}\n    {EXIT_CODES}"


def _round(folder: Path, job: Job, shard: Shard, batch_size: int, device: str) -> dict[str, Any]:
    """Gather the next pass on one shard, and say what was done."""
    import warnings

    from neroli.cli.fit_run import FitRun
    from neroli.errors import InvalidInput, NeroliWarning
    from neroli.scale.gathering import GatheringStore
    from neroli.scale.partition import part_path
    from neroli.scale.rounds import Passes, PassGathered, Round
    from neroli.store import ActivationStore

    if shard.of != job.shards:
        raise InvalidInput(
            f"The fit in {str(folder)!r} is of {job.shards} shards, not {shard.of}: give "
            f"--shard {min(shard.number, job.shards)}/{job.shards}."
        )
    facts: dict[str, Any] = {"folder": str(folder), "shard": str(shard), "pass": None}
    others = job.training_shards()
    if shard not in others:
        return {**facts, "missing": [], "left": False}
    run = FitRun(job.options, batch_size=batch_size, device=device, folder=folder)
    run.begin(job.shards)
    run.check_extracted(shard)
    parts = [part_path(folder, "training", each) for each in (shard, *others)]
    whole = next((path for path in parts if path.exists() and len(ActivationStore(path))), parts[0])
    passes = Passes(folder, job)

    def stopped(only_read: bool) -> PassGathered | None:
        gather = Round(passes, folder, shard, only_read=only_read).gathered
        try:
            with warnings.catch_warnings():  # the merge says all of it once
                warnings.simplefilter("ignore", NeroliWarning)
                run.guard.fit(
                    GatheringStore(whole, gather), keep_examples=job.options.keep_examples
                )
        except PassGathered as gathered:
            return gathered
        return None

    gathered = stopped(only_read=False)
    if gathered is None:
        return {**facts, "missing": [], "left": False}
    missing = [str(each) for each in gathered.missing]
    left = bool(missing) or stopped(only_read=True) is not None
    return {**facts, "pass": gathered.number, "missing": missing, "left": left}


def _text(facts: dict[str, Any]) -> str:
    finish = f"neroli merge {facts['folder']}"
    if facts["pass"] is None:
        return f"No pass is left to gather on shard {facts['shard']}: {finish}"
    done = f"Gathered pass {facts['pass']} on shard {facts['shard']}"
    if not facts["left"]:
        return f"{done}, as on all others. No pass is left: {finish}"
    count = len(facts["missing"])
    if not count:
        return f"{done}, as on all others: go on with the next round."
    return f"{done}; {count} shard{'s have' if count > 1 else ' has'} not yet."
