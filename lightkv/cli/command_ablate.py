"""`lightkv ablate`: run a grid of compressed models, or what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.output import console, notes

if TYPE_CHECKING:
    from lightkv.lab.runner import Progress as Step
    from lightkv.lab.store import Store
    from lightkv.lab.summary import Line


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
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing; print the table of --out.")
    ] = False,
) -> None:
    """Run an ablation grid; run again with the same --out, it goes on where it stopped."""
    from lightkv.core.errors import ConfigError
    from lightkv.lab.store import Store

    if table:
        with Store.open(out) as store:
            _show(store)
        return
    if grid is None:
        raise ConfigError(
            "there is nothing to run",
            field="GRID",
            remedy="give a grid in YAML, or --table to print the results that are there",
        )
    from lightkv.cli.loading import quiet_libraries
    from lightkv.lab.runner import ablate as run

    quiet_libraries()
    try:
        with _bar() as progress:
            store = run(
                grid,
                out=out,
                workers=workers,
                ray=ray,
                threads=threads,
                retry_failed=retry_failed,
                progress=progress,
            )
    except KeyboardInterrupt:
        notes().print(
            f"Stopped. What was finished is in {out}; the same command goes on from there.",
            markup=False,
        )
        raise typer.Abort from None
    with store:
        _show(store)


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar over cells with the time left; a line for each cell without a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    out = notes()
    bar = Progress(
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=out,
        transient=True,
        disable=not out.is_terminal,
        speed_estimate_period=24 * 3600,  # a cell may take many minutes
    )
    with bar:
        task = bar.add_task("reading the grid", total=None)
        ended = 0

        def advance(step: Step) -> None:
            nonlocal ended
            name = step.cell.name if step.cell is not None else ""
            failed = f"{step.failed} failed, " if step.failed else ""
            bar.update(task, completed=step.done, total=step.total, description=failed + name)
            if not out.is_terminal and step.done > ended:
                out.print(f"{step.done} of {step.total}: {name}", markup=False)
            ended = step.done

        yield advance


# -- printing -------------------------------------------------------------------------------------


def _show(store: Store) -> None:
    from rich import box
    from rich.table import Table

    from lightkv.lab.summary import summary
    from lightkv.lab.tasks import tasks

    lines = summary(store)
    out = console()
    known = tasks()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("cell")
    for head in ("mean", "95 %", "retention", "FLOPs", "KV", "difference", "95 %", "McNemar p"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        name = line.cell.spec["task"]["name"]
        accuracy = name not in known or known[name].accuracy
        table.add_row(*_row(line, 100.0 if accuracy else 1.0))
    out.print(table)
    for line in lines:
        if line.cell.status != "done":
            reason = f": {line.cell.reason}" if line.cell.reason else ""
            out.print(f"{line.cell.name} {line.cell.status}{reason}", markup=False)
    baseline = store.meta.get("baseline")
    against = f" to {baseline!r}" if baseline else ", each to its own baseline"
    out.print(
        f"Scores in %, log-probabilities as they are. Differences{against}, paired by sample; "
        "intervals by bootstrap over pictures; McNemar's p is exact and counts wholly right "
        "answers.",
        style="dim",
        markup=False,
    )


def _row(line: Line, scale: float) -> list[str]:
    """Texts of a cell; scores times `scale`."""
    from rich.markup import escape

    cell, name = line.cell, escape(line.cell.name)
    if line.mean is None or line.low is None or line.high is None:
        return [name, cell.status, *[""] * 7]
    digits = 1 if scale > 1 else 3
    texts = [
        name,
        f"{scale * line.mean:.{digits}f}",
        f"{scale * line.low:.{digits}f} … {scale * line.high:.{digits}f}",
        *(f"{value:.3f}" for value in (cell.retention, cell.flops, cell.kv_bytes)),
    ]
    gap = line.difference
    if gap is None:
        return [*texts, "", "", ""]
    return [
        *texts,
        f"{scale * gap.difference:+.{digits}f}",
        f"{scale * gap.low:+.{digits}f} … {scale * gap.high:+.{digits}f}",
        "" if gap.mcnemar_p is None else f"{gap.mcnemar_p:.2g}",
    ]
