"""The command line; heavy imports wait until a command runs, so that --help is quick."""

import typer

from neroli.cli import demo, fit, inspect, score

app = typer.Typer(
    name="neroli",
    help="Know when your image classifier is out of its depth, and see why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("fit")(fit.fit)
app.command("score")(score.score)
app.command("inspect")(inspect.inspect)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line."""
    app()
