"""`lightkv export`: cells, samples, kinds or effects of results files, as CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import check_writable, notes
from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.lab.reporting.exporting import What


def export(
    results: Annotated[list[Path], typer.Argument(help="Results files, one or several.")],
    out: Annotated[
        Path | None, typer.Option(help="A new .csv or .json file [standard output].")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="A row for each sample, not for each cell.")
    ] = False,
    kinds: Annotated[
        bool, typer.Option("--kinds", help="A row for each cell and kind of question.")
    ] = False,
    effects: Annotated[
        bool, typer.Option("--effects", help="A row for each label of an axis, against its first.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Write cells, samples, kinds of question or effects of results files as CSV or JSON."""
    from lightkv.lab.reporting.exporting import csv_text, json_text, rows
    from lightkv.lab.reporting.exporting import export as write

    what = _what(samples=samples, kinds=kinds, effects=effects)
    if out is None:
        found = rows(results, what)
        typer.echo(json_text(found) if json else csv_text(found), nl=False)
        return
    check_writable(str(out), "--out")
    number = write(results, out, what, overwrite=overwrite, json=json or None)
    notes().print(f"wrote {number} {what} to {out}", soft_wrap=True)


def _what(**given: bool) -> What:
    """What the rows are of.

    Raises:
        ConfigError: more than one kind of rows is asked for.
    """
    chosen = [name for name, on in given.items() if on]
    if len(chosen) > 1:
        raise ConfigError(
            "one file has rows of one kind",
            field=", ".join(f"--{name}" for name in chosen),
            remedy="give one of these, and another --out for each further one",
        )
    return cast("What", chosen[0] if chosen else "cells")
