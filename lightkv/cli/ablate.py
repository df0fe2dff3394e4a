"""`lightkv ablate`: run a grid of compressed models, or what is left of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.options import Changes, Json, read_changes
from lightkv.cli.output import (
    bytes_text,
    cells_bar,
    console,
    duration_text,
    notes,
    print_json,
    stoppable,
    table,
)
from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.lab.grids.run import Progress as Step
    from lightkv.lab.grids.store import Store
    from lightkv.lab.grids.table import Line
    from lightkv.lab.outcomes import Cell


def ablate(
    grid: Annotated[Path | None, typer.Argument(help="A grid in YAML.")] = None,
    out: Annotated[Path, typer.Option(help="The results file (SQLite).")] = Path("results.sqlite"),
    workers: Annotated[int, typer.Option(help="Processes, each with the model loaded.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, or local to start one.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of torch in each worker [all, shared out].")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed cells again.")
    ] = False,
    changes: Changes = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add the grid's cells to the results of another grid.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing; print the table of --out.")
    ] = False,
    json: Json = False,
) -> None:
    """Run an ablation grid; run again with the same --out, it goes on where it stopped.

    The exit code is 1 if every cell that ran failed.
    """
    from lightkv.lab.grids.store import Store
    from lightkv.lab.stats import scipy_stats

    scipy_stats()  # before hours of work, whose table needs it
    if table:
        with Store.open(out) as store:
            _tell(store, json)
        return
    if grid is None:
        raise ConfigError(
            "there is nothing to run",
            field="GRID",
            remedy="give a grid in YAML, or --table to print the results that are there",
        )
    given = read_changes(changes or (), "task.scenes=20")
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.lab.grids.run import ablate as run

    quiet_libraries()
    with stoppable(out), _bar() as progress:
        store = run(
            grid,
            out=out,
            changes=given,
            workers=workers,
            ray=ray,
            threads=threads,
            retry_failed=retry_failed,
            extend=extend,
            progress=progress,
        )
    with store:
        _tell(store, json)
        ran = {cell.status for cell in store.cells()} - {"pending", "skipped"}
    if ran == {"failed"}:
        raise typer.Exit(1)  # a script must not go on with nothing


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar over cells with the time left; a line for each cell without a terminal."""
    out = notes()
    with cells_bar() as bar:
        task = bar.add_task("reading the grid", total=None, end=None)
        ended = 0

        def advance(step: Step) -> None:
            nonlocal ended
            name = step.cell.name if step.cell is not None else ""
            failed = f"{step.failed} failed, " if step.failed else ""
            end = None if step.left is None else time.monotonic() + step.left
            bar.update(
                task, completed=step.done, total=step.total, description=failed + name, end=end
            )
            if not out.is_terminal and step.done > ended:
                left = step.left if step.done < step.total else None
                rest = "" if left is None else f", about {duration_text(left)} left"
                out.print(f"{step.done} of {step.total}: {name}{rest}")
            ended = step.done

        yield advance


# -- printing -------------------------------------------------------------------------------------


def _tell(store: Store, json: bool) -> None:
    from lightkv.lab.grids.table import summary

    lines = summary(store)
    if json:
        print_json({"cells": [_plain(line) for line in lines]})
    else:
        _show(lines)


def _plain(line: Line) -> dict[str, Any]:
    """A cell and its figures, without what is in its spec."""
    cell = line.cell
    names = ("name", "factors", "status", "reason", "seconds", "retention", "flops", "kv_bytes")
    difference = None if line.difference is None else asdict(line.difference)
    return {
        **{name: getattr(cell, name) for name in names},
        **{name: getattr(line, name) for name in ("mean", "low", "high", "baseline")},
        "difference": difference,
        "holm": line.holm,
        "remark": line.remark or None,
        "measured": None if cell.measured is None else asdict(cell.measured),
    }


def _show(lines: Sequence[Line]) -> None:
    out = console()
    factors = _varying([line.cell for line in lines])
    measured = any(line.cell.measured is not None for line in lines)
    heads = (*factors, "mean", "achieved", "FLOPs", "KV", *(("first", "peak") if measured else ()))
    heads += ("difference [95 %]", "p", "p, Holm")
    found = table(*heads, left=len(factors), compact=True)
    for line in lines:
        found.add_row(*_labels(line.cell, factors), *_figures(line, measured))
    out.print(found)
    for line in lines:
        if line.cell.status != "done":
            reason = f": {line.cell.reason}" if line.cell.reason else ""
            out.print(f"{line.cell.name} {line.cell.status}{reason}")
    for text in dict.fromkeys(line.remark for line in lines if line.remark):
        names = [line.cell.name for line in lines if line.remark == text]
        out.print(f"Remark on {', '.join(names)}: {text}.")
    out.print(_explanation(lines), style="dim")
    if measured:
        out.print(_machines(lines), style="dim")


def _varying(cells: Sequence[Cell]) -> list[str]:
    """Factors that tell cells apart, in order."""
    labels: dict[str, set[str]] = {}
    for cell in cells:
        for key, label in cell.factors.items():
            labels.setdefault(key, set()).add(label)
    ends = ("model", "task", "retention", "seed")
    found = [key for key in labels if key not in (*ends, "cell")]
    return found + [key for key in ends if len(labels.get(key, ())) > 1] or ["cell"]


def _labels(cell: Cell, factors: Sequence[str]) -> list[str]:
    """The cell's label of each factor; a cell that is no combination of axes has its name first."""
    labels = [cell.factors.get(key, "") for key in factors]
    if not labels[0]:
        labels[0] = cell.factors.get("cell", cell.name)
    return labels


def _figures(line: Line, measured: bool) -> list[str]:
    """Texts of what a cell reached; `measured` where the table has a column for it."""
    from lightkv.lab.tasks import tasks

    cell = line.cell
    if line.mean is None:
        return [cell.status, *[""] * (8 if measured else 6)]
    task = tasks().get(cell.spec["task"]["name"])
    scale, digits = (100.0, 1) if task is None or task.accuracy else (1.0, 3)
    shares = (cell.retention, cell.flops, cell.kv_bytes)
    texts = [f"{scale * line.mean:.{digits}f}", *(f"{share:.3f}" for share in shares)]
    if measured:
        texts += _measured(cell)
    gap = line.difference
    if gap is None:
        return [*texts, "", "", ""]
    middle, low, high = (f"{scale * v:+.{digits}f}" for v in (gap.difference, gap.low, gap.high))
    chances = ("" if p is None else f"{p:.2g}" for p in (gap.mcnemar_p, line.holm))
    return [*texts, f"{middle} [{low}, {high}]", *chances]


def _measured(cell: Cell) -> list[str]:
    """Time to the first token and peak memory."""
    if cell.measured is None:
        return ["", ""]
    return [f"{1000 * cell.measured.first_token:.3g} ms", bytes_text(cell.measured.peak_bytes)]


def _machines(lines: Sequence[Line]) -> str:
    """What the measured columns are, and where they were measured."""
    found = [line.cell.measured for line in lines if line.cell.measured is not None]
    places = dict.fromkeys(each.where for each in found)
    prompts = max(each.prompts for each in found)
    return (
        f"Measured, one prompt at a time: first is the time to the first token, the median of {prompts} "
        "prompts; peak is memory beyond weights and inputs, of the longest of them. Measured on: "
        f"{'; '.join(places)}."
    )


def _explanation(lines: Sequence[Line]) -> str:
    names = sorted({line.baseline or "" for line in lines if line.difference is not None})
    against = "No cell could be compared with a baseline; "
    if names:
        to = repr(names[0]) if len(names) == 1 else f"{len(names)} baselines"
        against = f"Differences are to {to}, paired by sample; "
    return (
        "Mean scores in %, log-probabilities as they are; retention as achieved; FLOPs of the prefill "
        f"and bytes of its cache relative to the uncompressed model. {against}"
        "intervals of 95 % each by bootstrap (BCa) over pictures; p is McNemar's, exact, of wholly "
        "right answers, and beside it corrected after Holm for all tests of the table."
    )
