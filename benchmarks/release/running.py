"""Commands that must work, and checks that are told in a table when all is done."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_CONSTRAINT")
"""Variables of whoever started the check: none of them may reach what is checked."""


class Failed(Exception):
    """Something that a release must not have."""


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command.

    Raises:
        Failed: its exit code is not 0.
    """
    variables = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        told = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}".strip()
        raise Failed(f"exit code {done.returncode} of {' '.join(map(str, command))}\n{told}")
    return done.stdout


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    where: str
    result: str
    seconds: float
    ok: bool = True


@dataclass
class Rows:
    """What was checked, in the order of the checks; each is printed as soon as it is known."""

    rows: list[Row] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def add(self, what: str, where: str, result: str, ok: bool = True) -> None:
        """A check that is done; it took the time since the one before it."""
        now = time.monotonic()
        row = Row(what, where, result, now - self._since, ok)
        self._since = now
        self.rows.append(row)
        print(f"{row.seconds:6.1f} s  {what} ({where}): {result}", flush=True)

    def fail(self, what: str, where: str, error: Failed) -> None:
        """A check that failed: the table has its first line, and what follows is printed here."""
        self.add(what, where, f"FAILED: {error}", ok=False)

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)


def table(rows: Iterable[Row]) -> str:
    """The rows below one another, in columns of Markdown."""
    lines = [("what", "where", "result", "s"), ("---", "---", "---", "---:")]
    for row in rows:
        lines.append((row.what, row.where, row.result.split("\n")[0], f"{row.seconds:.0f}"))
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:2]]
    padded = [(*map(str.ljust, line[:2], widths), *line[2:]) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
