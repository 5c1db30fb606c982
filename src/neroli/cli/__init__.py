"""The command line; heavy imports wait until a command runs, so that --help is quick."""

from typing import Annotated

import typer

from neroli import __version__
from neroli.allocation import keep_freed_memory
from neroli.cli import (
    bench,
    choose,
    datasets,
    demo,
    detectors,
    explain,
    export,
    fit,
    inspect,
    merge,
    records,
    score,
    serve,
    split,
    store,
    train,
)

app = typer.Typer(
    name="neroli",
    help="Know when your image classifier is out of its depth, and see why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("export")(export.export)
app.command("choose")(choose.choose)
app.command("fit")(fit.fit)
app.command("merge")(merge.merge)
app.command("score")(score.score)
app.command("explain")(explain.explain)
app.command("records")(records.records)
app.command("serve")(serve.serve)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("split")(split.split)
app.add_typer(store.app, name="store")
app.command("datasets")(datasets.datasets)
app.command("detectors")(detectors.detectors)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line."""
    keep_freed_memory()
    app()
