"""``neroli bench``: every detector on known ID and OOD images, and a report to decide from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Head,
    Interpolation,
    Json,
    PerChannel,
    Precision,
    Resize,
    Weights,
    emit,
    execution_with,
    preprocessing_with,
    reported,
)

if TYPE_CHECKING:
    from neroli.benchmark.results import Results
    from neroli.benchmark.suite import Suite


SHOWN = 10
"""Rows on the terminal; the files have all."""


def bench(
    suite: Annotated[
        str | None, typer.Argument(help="A built-in suite, as --list names them, or a .toml file.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the built-in suites.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data and weights that the suite names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results. [default: SUITE-bench]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead of the suite's; as `neroli fit --model`.")
    ] = None,
    weights: Weights = None,
    head: Head = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--id",
            help="Own images, without a suite: a folder with one subfolder a class, split into "
            "training, calibration and test images, or with train/ and test/ in it.",
        ),
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="Images of other things, near=PATH or far=PATH; may be repeated."),
    ] = None,
    class_map: ClassMap = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: PerChannel = None,
    std: PerChannel = None,
    interpolation: Interpolation = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="all; one-pass: those that need the network only once; head: those of features "
            "and logits; or names with commas between. [default: the suite's, or one-pass]"
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Also search hyper-parameters, without OOD data."),
    ] = False,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of ID images that thresholds may flag.")
    ] = 0.05,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Of each set take so many images, for a quick look.")
    ] = None,
    gallery: Annotated[
        int,
        typer.Option(
            min=0,
            help="Explain so many of the most and least OOD images of each set in the report; they "
            "may be patient data.",
        ),
    ] = 10,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    precision: Precision = None,
    channels_last: ChannelsLast = None,
    compile: Compile = None,
    as_json: Json = False,
) -> None:
    """Compare detectors on known ID and OOD images: tables with intervals, and a report.

    The images go through the network once. Interrupted, the same command goes on where it stopped;
    run again with other detectors, it uses what is stored.
    """
    with reported(as_json):
        from neroli.benchmark.suite import builtin_names, describe

        if listed:
            facts = {name: describe(name) for name in builtin_names()}
            emit(as_json, facts, lambda: "\n\n".join(facts.values()))
            return
        chosen = _suite(suite, model, weights, head, identity, ood or [])
        from neroli.benchmark.images import benchmark_images
        from neroli.benchmark.model import classifier_of
        from neroli.benchmark.runner import Options, check_folder, run
        from neroli.calibration import Promise

        out = out or Path(f"{chosen.name}-bench")
        check_folder(out)
        _check_apart(
            out, [*([identity] if identity else []), *(_ood(each)[1] for each in ood or [])]
        )
        wanted = _detectors(detectors)
        if wanted is not None:
            chosen.with_detectors(wanted)  # unknown ones are better said before the work
        options = Options(
            detectors=wanted,
            resamples=resamples,
            promise=Promise(false_alarm_rate, "average"),
            tune=tune,
            limit=limit,
            gallery=gallery,
            batch_size=batch_size,
            class_map=class_map,
            command=shlex.join(["neroli", *sys.argv[1:]]),
        )
        images = benchmark_images(chosen, data)
        classifier = classifier_of(chosen, images, data, out, device=device, say=_say)
        classifier.execution = execution_with(
            classifier.execution, precision, channels_last, compile
        )
        classifier.preprocessing = preprocessing_with(
            classifier.preprocessing, resize, crop, mean, std, interpolation
        )
        results = run(chosen, images, classifier, out, options, _say)
        emit(as_json, _facts(out, results), lambda: _text(out, results))
        if any(each.unreadable for each in results.sets):
            raise typer.Exit(SOME_UNREADABLE)


bench.__doc__ = f"{bench.__doc__}\n    {EXIT_CODES}"


def _say(text: str) -> None:
    print(f"neroli: {text}", file=sys.stderr)


def _suite(
    name: str | None,
    model: str | None,
    weights: Path | None,
    head: str | None,
    identity: Path | None,
    ood: list[str],
) -> Suite:
    """The suite that was named, or one of the user's own folders."""
    from neroli.benchmark.suite import own_suite, read_suite, with_model
    from neroli.errors import InvalidInput

    if name is not None:
        if identity is not None or ood:
            raise InvalidInput(f"The suite {name!r} has its own images: drop --id and --ood.")
        chosen = read_suite(name)
        return chosen if model is None else with_model(chosen, model, weights, head)
    if model is None or identity is None or not ood:
        raise InvalidInput(
            "Name a suite (--list shows them), or give --model, --id and at least one --ood."
        )
    return own_suite(model, weights, identity, [_ood(each) for each in ood], head=head)


def _check_apart(out: Path, images: list[Path]) -> None:
    """Raise InvalidInput if results would be written among the images."""
    from neroli.errors import InvalidInput

    for folder in images:
        if out.resolve().is_relative_to(folder.resolve()):
            raise InvalidInput(
                f"The results {str(out)!r} would lie among the images of {str(folder)!r}: choose "
                "another folder with --out."
            )


def _ood(text: str) -> tuple[str, Path]:
    from neroli.errors import InvalidInput

    nearness, equals, path = text.partition("=")
    if not equals or nearness not in ("near", "far") or not path:
        raise InvalidInput(f"--ood takes near=PATH or far=PATH, got {text!r}.")
    return nearness, Path(path)


def _detectors(text: str | None) -> Any:
    from neroli.benchmark.schema import GROUPS

    if text is None or text in GROUPS:
        return text
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _facts(out: Path, results: Results) -> dict[str, Any]:
    return {
        "results": str(out),
        "report": str(out / "report.html"),
        **results.model_dump(mode="json"),
    }


def _text(out: Path, results: Results) -> str:
    from neroli.benchmark import wording
    from neroli.explain.facts import plain

    rows = results.rows[:SHOWN]
    width = max(len(row.label) for row in rows)
    lines = [*wording.answer(results), ""]
    lines.append(f"{'AUROC / FPR95 in %':{width}}  {'mean':>25}  {'near':>25}  {'far':>25}")
    lines += [
        f"{row.label:{width}}  "
        + "  ".join(f"{wording.auroc_fpr95(mean):>25}" for mean in (row.mean, row.near, row.far))
        for row in rows
    ]
    if more := len(results.rows) - len(rows):
        lines.append(f"and {more} more.")
    lines += ["", *(f"Note: {note}" for note in (*wording.problems(results), *results.remarks))]
    lines.append(f"Read {out / 'report.html'}; the figures are in results.* beside it.")
    return "\n".join(map(plain, lines))
