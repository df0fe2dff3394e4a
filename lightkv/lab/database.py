"""The file behind a store: its lock, its header, and rows from and to plain records."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any

from lightkv.lab.errors import StoreError
from lightkv.lab.records import Cell, Outcome

MAGIC = b"SQLite format 3\x00"
BUSY_SECONDS = 5.0
CELL = (
    "id, position, name, factors, spec, status, reason, versions, seconds, retention, flops, "
    "kv_bytes, tokens"
)
OUTCOME = "sample, cluster, kind, question, answer, score, retention"


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that commits when told to; `mode` as in SQLite's URIs."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        found = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot open the results file ({error})",
            field="results",
            value=str(path),
            remedy="name a file that can be read and written",
        ) from error
    return found


def check_place(path: Path) -> None:
    """Refuse a path that no file can be at."""
    what = None
    if path.is_dir():
        what = "it is a directory"
    elif not path.absolute().parent.is_dir():
        what = "its folder does not exist"
    if what is not None:
        raise StoreError(
            f"cannot write the results file: {what}",
            field="--out",
            value=str(path),
            remedy="name a file in a folder that exists",
        )


def check_header(path: Path) -> None:
    """Refuse what is no database before SQLite touches it."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise StoreError(
            f"cannot read the results file ({error.strerror})", field="results", value=str(path)
        ) from error
    if head != MAGIC:
        raise StoreError(
            "not a results file of lightkv; it was left as it is",
            field="results",
            value=str(path),
            remedy="name another file",
        )


def lock(path: Path) -> int | None:
    """Take the file for this process; None where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(
            f"cannot write the results file ({error.strerror})",
            field="--out",
            value=str(path),
            remedy="name a file in a folder that can be written to",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise in_use(path) from error
    return handle


def unlock(handle: int | None) -> None:
    """Let the file go."""
    if handle is not None:
        os.close(handle)


def in_use(path: Path) -> StoreError:
    """The error for a file that another process holds."""
    return StoreError(
        "the results file is locked: another process writes it",
        field="results",
        value=str(path),
        remedy=f"wait for it or stop it (on {socket.gethostname()}), or name another file",
    )


# -- rows -----------------------------------------------------------------------------------------


def plain(data: Any) -> Any:
    """As it will be read back."""
    return json.loads(json.dumps(data))


def dumps(*values: Any) -> list[str]:
    """Each value as compact JSON."""
    return [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]


def from_cell(cell: Cell) -> tuple[Any, ...]:
    """The row of a cell, in the order of `CELL`."""
    factors, spec, versions, tokens = dumps(
        cell.factors, cell.spec, cell.versions, list(cell.tokens)
    )
    return (
        *(cell.id, cell.position, cell.name, factors, spec, cell.status, cell.reason, versions),
        *(cell.seconds, cell.retention, cell.flops, cell.kv_bytes, tokens),
    )


def to_cell(row: tuple[Any, ...]) -> Cell:
    """The cell of a row in the order of `CELL`."""
    identity, position, name, factors, spec, status, reason, versions, *figures, tokens = row
    return Cell(
        identity,
        position,
        name,
        json.loads(factors),
        json.loads(spec),
        status,
        reason,
        json.loads(versions),
        *figures,
        tuple(json.loads(tokens)),
    )


def from_outcome(outcome: Outcome) -> tuple[Any, ...]:
    """The row of an outcome, in the order of `OUTCOME`."""
    return (
        outcome.sample,
        outcome.cluster,
        outcome.kind,
        outcome.question,
        outcome.answer,
        float(outcome.score),
        float(outcome.retention),
    )
