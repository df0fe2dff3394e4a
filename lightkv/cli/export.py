"""`lightkv export`: cells or samples of results files, as CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import check_writable, notes


def export(
    results: Annotated[list[Path], typer.Argument(help="Results files, one or several.")],
    out: Annotated[
        Path | None, typer.Option(help="A new .csv or .json file [standard output].")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="A row for each sample, not for each cell.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the cells or the samples of results files as CSV or JSON."""
    from lightkv.lab.grids.flat import check_new, csv_text, json_text, rows
    from lightkv.lab.grids.flat import export as write

    what = "samples" if samples else "cells"
    if out is None:
        found = rows(results, what)
        typer.echo(json_text(found) if json else csv_text(found), nl=False)
        return
    check_writable(str(out), "--out")
    check_new(out, overwrite)
    number = write(results, out, what, overwrite=overwrite, json=json or None)
    notes().print(f"wrote {number} {what} to {out}", soft_wrap=True)
