"""The `lightkv` command line. Each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lightkv.cli.command_ablate import ablate
from lightkv.cli.command_demo import demo
from lightkv.cli.command_plan import plan
from lightkv.cli.command_report import report
from lightkv.cli.command_run import run
from lightkv.cli.command_show import show
from lightkv.cli.command_strategies import strategies
from lightkv.cli.command_tune import tune
from lightkv.cli.errors import OneLineErrors

__all__ = ["app", "main"]

app = typer.Typer(
    name="lightkv",
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress the vision tokens of vision-language models during prefill.",
)
app.command()(demo)
app.command()(run)
app.command()(strategies)
app.command()(plan)
app.command()(show)
app.command()(report)
app.command()(ablate)
app.command()(tune)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import lightkv

        typer.echo(f"lightkv {lightkv.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Entry point of the `lightkv` script."""
    app()
