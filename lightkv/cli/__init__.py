"""The `lightkv` command line. Each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lightkv.cli import (
    ablate,
    convert,
    demo,
    models,
    report,
    run,
    search,
    show,
    strategies,
    tune,
    vllm_args,
)
from lightkv.cli.errors import OneLineErrors
from lightkv.cli.plan import command as plan

__all__ = ["app", "main"]

app = typer.Typer(
    name="lightkv",
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress the vision tokens of vision-language models during prefill.",
)
for command in (
    demo.demo,
    run.run,
    strategies.strategies,
    models.models,
    plan.plan,
    show.show,
    report.report,
    ablate.ablate,
    tune.tune,
    search.search,
    vllm_args.vllm_args,
):
    app.command()(command)
app.add_typer(convert.app, name="convert")


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
