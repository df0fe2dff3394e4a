"""The `lightkv` command line. What its commands are is in `lazy.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from lightkv.cli.lazy import LaterCommands

__all__ = ["app", "main"]

app = typer.Typer(
    name="lightkv",
    cls=LaterCommands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress the vision tokens of vision-language models during prefill.",
)


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
