"""What the commands share for printing: JSON, consoles, tables, bars and readable numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lightkv.core.errors import ConfigError, file_errors

PROSE = 110
"""Columns that sentences are wrapped to where nobody looks at a terminal (a file, a pipe)."""
WIDEST = 240
"""Columns of a table there, more only where a word would be broken: a row of figures is one line."""
_ONE_LINE = 10_000

_AS_IT_IS: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


class _WideConsole(Console):
    """A console without a terminal: tables are as wide as what is in them, sentences are wrapped."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As of every console."""
        if all(isinstance(each, str) for each in objects) and not options.get("soft_wrap"):
            options = {"width": PROSE, **options}
        tables = [each for each in objects if isinstance(each, Table)]
        self.width = max([WIDEST, *map(self._least, tables)])
        super().print(*objects, **options)

    def _least(self, table: Table) -> int:
        """Columns in which no word of a table is broken, and no cell that must not be wrapped."""

        def measured(*parts: Any) -> tuple[int, int]:
            unlimited = self.options.update(width=_ONE_LINE)
            found = [Measurement.get(self, unlimited, part) for part in parts if part]
            return tuple(max((each[end] for each in found), default=0) for end in (0, 1))

        whole = (measured(c.header, *c.cells) for c in table.columns if c.no_wrap)
        return measured(table)[0] + sum(most - least for least, most in whole)


def console() -> Console:
    """Standard output. Without a terminal (a file, a pipe) it is as wide as each table needs, whatever
    `COLUMNS` says.

    Names, paths and answers are printed as they are: `[red]`, `[/]` and `:smile:` are no markup.
    """
    found = Console(**_AS_IT_IS, soft_wrap=False)
    if found.file.isatty():
        return found
    return _WideConsole(**_AS_IT_IS, width=WIDEST)


def notes() -> Console:
    """Standard error, for progress and remarks, so that standard output stays parseable."""
    found = Console(**_AS_IT_IS, stderr=True)
    if found.file.isatty():
        return found
    return Console(**_AS_IT_IS, stderr=True, width=_ONE_LINE)


def table(*heads: str, left: int = 1, compact: bool = False) -> Table:
    """A table without rows: the first `left` columns stand to the left, the others to the right.

    In a compact one columns have one blank between them, and only those to the left may be wrapped.
    """
    room: dict[str, Any] = {"pad_edge": False, "padding": (0, 1, 0, 0)} if compact else {}
    made = Table(box=box.SIMPLE_HEAD, **room)
    for number, head in enumerate(heads):
        if number < left:
            made.add_column(head, overflow="fold" if compact else "ellipsis")
        else:
            made.add_column(head, justify="right", no_wrap=compact)
    return made


def progress_bar(*columns: ProgressColumn, **options: Any) -> Progress:
    """A bar on standard error that vanishes at its end; without a terminal there is none."""
    out = notes()
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal, **options)


def counting_bar(unit: str, **options: Any) -> Progress:
    """A bar over things that are counted, with the time left and what its task describes."""
    return progress_bar(
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        **options,
    )


class EndColumn(ProgressColumn):
    """The time left until `end` of a task's fields, by `time.monotonic`."""

    def render(self, task: Task) -> Text:
        """As text; empty where nobody knows."""
        end = task.fields.get("end")
        if end is None:
            return Text("")
        return Text(f"about {duration_text(max(0.0, end - time.monotonic()))} left")


def cells_bar() -> Progress:
    """A bar over cells, which may take many minutes each: `end` of its task is when all will be done."""
    return progress_bar(
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        EndColumn(),
        TextColumn("{task.description}", markup=False),
    )


def duration_text(seconds: float) -> str:
    """`8000` → `2 h 13 min`; below two minutes in seconds, below two hours in minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def write_json(data: Any, target: str) -> None:
    """JSON to a file.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    with writing(target):
        Path(target).write_text(text, encoding="utf-8")


def check_writable(target: str | None, field: str = "--json") -> None:
    """Fail before a long run, not after it, where its result could not be written.

    Raises:
        ConfigError: there is no such folder, or the path is one.
    """
    if target is None:
        return
    path = Path(target)
    with writing(target, field):
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError("its folder does not exist")


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """Long work whose results file `out` can be gone on with: a stop by the user says so.

    Raises:
        typer.Abort: the user stopped it.
    """
    try:
        yield
    except KeyboardInterrupt:
        notes().print(
            f"Stopped. What was finished is in {out}; the same command goes on from there.",
        )
        raise typer.Abort from None


def writing(target: str, field: str = "--json") -> AbstractContextManager[None]:
    """Where a file that cannot be written is an error of the user's."""
    remedy = "name a file in a folder that exists"
    return file_errors(ConfigError, "write the file", field, target, remedy)


def scaled(value: float, units: tuple[str, ...], step: float) -> str:
    """`1536, ("B", "KiB"), 1024` → `1.50 KiB`: three digits and the unit that suits them."""
    number = 0
    while abs(value) >= step and number < len(units) - 1:
        value, number = value / step, number + 1
    digits = max(0, 3 - len(str(int(abs(value))))) if number else 0
    return f"{value:.{digits}f} {units[number]}"


def bytes_text(count: float) -> str:
    """Bytes with a binary unit."""
    return scaled(count, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def flops_text(count: float) -> str:
    """FLOPs with a decimal unit."""
    return scaled(count, ("FLOPs", "KFLOPs", "MFLOPs", "GFLOPs", "TFLOPs"), 1000)
