"""`lightkv report`: the results of a grid as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import check_writable, console, print_json


def report(
    results: Annotated[Path, typer.Argument(help="A results file of `lightkv ablate`.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write [the results' name, with .html].")
    ] = None,
    json: Json = False,
) -> None:
    """Write one self-contained HTML page: quality against cost, main effects, all cells."""
    from lightkv.lab import report as write

    target = results.with_suffix(".html") if out is None else out
    check_writable(str(target), "--out")
    study = write(results, target)
    done = sum(row.group is not None for row in study.rows)
    if json:
        print_json({"page": str(target), "cells": len(study.rows), "finished": done})
        return
    lines = console()
    lines.print(f"{done} of {len(study.rows)} cells have finished", style="dim")
    lines.print(f"wrote {target}", soft_wrap=True)
