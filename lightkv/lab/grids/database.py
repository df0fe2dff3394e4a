"""The file behind a store: its lock, its header, and rows from and to plain records."""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from lightkv.lab.errors import StoreError
from lightkv.lab.outcomes import Cell, Outcome, Status

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
    """The cell of a row in the order of `CELL`.

    Raises:
        Malformed: a value that no run writes.
    """
    identity, position, name, factors, spec, status, reason, versions, *figures, tokens = row
    where = f"cell {name!r}"
    _need(all(isinstance(each, str) for each in (identity, name, reason)), where, "name")
    _need(status in get_args(Status), where, "status")
    found = {"factors": loads(factors), "spec": loads(spec), "versions": loads(versions)}
    for key in ("factors", "versions"):
        _need(_of_texts(found[key]), where, key)
    _need(_is_spec(found["spec"]), where, "spec")
    _need(all(each is None or is_finite(each) for each in figures), where, "figures")
    counts = loads(tokens)
    _need(isinstance(counts, list) and all(map(is_finite, counts)), where, "tokens")
    return Cell(
        identity,
        position,
        name,
        found["factors"],
        found["spec"],
        status,
        reason,
        found["versions"],
        *figures,
        tuple(counts),
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


def to_outcome(row: tuple[Any, ...]) -> Outcome:
    """The outcome of a row in the order of `OUTCOME`.

    Raises:
        Malformed: a value that no run writes.
    """
    found = Outcome(*row)
    where = f"sample {found.sample!r}"
    _need(all(isinstance(each, str) for each in row[:5]), where, "texts")
    _need(is_finite(found.score), where, "score")
    _need(is_finite(found.retention), where, "retention")
    return found


def to_meta(rows: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """The entries of `meta`.

    Raises:
        Malformed: a value that no run writes.
    """
    found = {key: loads(value) for key, value in rows}
    for key in ("baselines", "versions"):
        _need(_of_texts(found.get(key, {})), "meta", key)
    for key, kind in (("grid", dict), ("baseline", str), ("created", str), ("threads", int)):
        _need(isinstance(found.get(key), kind | None), "meta", key)
    return found


class Malformed(ValueError):
    """A readable file holds what no run writes; the store makes its own error of it."""


def is_finite(value: Any) -> bool:
    """Whether it is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def loads(text: Any) -> Any:
    """A value from JSON.

    Raises:
        Malformed: no text, or no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from error


def _need(right: bool, where: str, what: str) -> None:
    if not right:
        raise Malformed(f"{where} has odd {what}")


def _of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_spec(value: Any) -> bool:
    """Whether what reports and runs look up in a spec has the types that they count on."""
    kinds = {"model": str, "task": dict | str, "pipeline": dict}
    return isinstance(value, dict) and all(
        isinstance(value.get(key), kind | None) for key, kind in kinds.items()
    )
