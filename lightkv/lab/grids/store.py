"""The results of a grid in one SQLite file.

A cell's outcomes are written in one transaction with its status, so a process that dies at any moment
leaves whole cells only. A writer holds a lock of the operating system on the file for as long as it
lives; the system lets it go when the process ends, however it ends.

Rows are `Cell` and `Outcome`, field by field, mappings and lists as JSON. Both check themselves, so a
file that holds what no run writes is refused when it is read.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lightkv.core.errors import file_errors
from lightkv.core.strict import message_of
from lightkv.lab.errors import StoreError
from lightkv.lab.outcomes import Cell, Measured, Outcome

MAGIC = b"SQLite format 3\x00"
"""How every database of SQLite begins."""
BUSY_SECONDS = 5.0
"""To wait for a lock of SQLite's own, which is held for a transaction."""
LOOK_SECONDS = 0.05
"""A reader takes far less to see whether a process writes the file."""
SCHEMA = 1
"""Version of the tables; files of another one are refused."""
APPLICATION = 0x6C6B7662
"""In the header of the file: that it is a results file of lightkv ("lkvb")."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cells (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
    factors TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    versions TEXT NOT NULL DEFAULT '{}', seconds REAL, retention REAL, flops REAL, kv_bytes REAL,
    tokens TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
CREATE TABLE samples (
    cell TEXT NOT NULL REFERENCES cells(id), sample TEXT NOT NULL, cluster TEXT NOT NULL,
    kind TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, score REAL NOT NULL,
    retention REAL NOT NULL, PRIMARY KEY (cell, sample)
) WITHOUT ROWID;
"""
_CELL, _OUTCOME, _MEASURED = (
    [field.name for field in fields(kind) if field.name != "measured"]
    for kind in (Cell, Outcome, Measured)
)
"""Columns of `cells`, and of `samples` and `measured` without the cell."""
_TABLE_MEASURED = """
CREATE TABLE IF NOT EXISTS measured (
    cell TEXT PRIMARY KEY REFERENCES cells(id), first_token REAL NOT NULL, fastest REAL NOT NULL,
    slowest REAL NOT NULL, prompts INTEGER NOT NULL, peak_bytes INTEGER NOT NULL,
    machine TEXT NOT NULL, threads INTEGER NOT NULL, workers INTEGER NOT NULL
) WITHOUT ROWID
"""
"""A table of its own, made when there is something to put in: so lightkv 0.1 reads the files too."""
_JSON = {"factors", "spec", "versions", "tokens"}
"""Columns that hold JSON."""
_FOUND = ("versions", "seconds", "retention", "flops", "kv_bytes", "tokens")
"""What a cell's run finds out."""
T = TypeVar("T")


class Store:
    """A results file. Use `create` to write and `open` to read; both are context managers.

    Attributes:
        path: of the file.
        meta: `schema`, `grid` (as plain data), `earlier` (the grids that it extended), `created` (ISO
            time), `baseline` (name of the one cell that all others are compared with, or None),
            `baselines` (name of each cell → name of the cell that it is compared with), `remarks`
            (identity of a cell → what a reader has to know of it) and `versions` of the packages.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self.meta: dict[str, Any] = {}

    # -- opening ----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: str | Path, grid: dict[str, Any], *, extend: bool = False, **meta: Any
    ) -> Store:
        """A new file, or the existing one of the same grid, for writing.

        Cells that a dead process left running are pending again.

        Args:
            path: of the file.
            grid: what the cells come from, as plain data.
            extend: take the file of another grid too, as it is; `replace_cells` adds this one's cells.
            meta: `baseline`, `baselines`, `versions`, written into a new file.

        Raises:
            StoreError: the file is in use, damaged, of another version or of another grid; nothing
                is written into it then.
        """
        path = Path(path)
        _check_place(path)
        fresh = not path.exists() or path.stat().st_size == 0
        if not fresh:
            _check_header(path)
        store, lock = None, _lock(path)
        try:
            store = cls(path, _connect(path, "rwc" if fresh else "rw"), lock)
            with store._guard("read"):
                # An interrupted creation is rolled back to nothing when the file is first read.
                empty = store._one("SELECT count(*) FROM sqlite_master") == 0
            if empty:
                store._initialise(grid, meta)
            else:
                store._read_meta()
                store._take_grid(grid, extend)
                with store._writing():
                    store._run("UPDATE cells SET status = 'pending' WHERE status = 'running'")
        except BaseException:
            # The connection first: to close any handle of the file drops SQLite's own locks.
            if store is not None:
                store._connection.close()
            _unlock(lock)
            raise
        return store

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """An existing file, for reading only; also while another process writes.

        Raises:
            StoreError: there is none, it is locked, damaged, or of another program or version.
        """
        path = Path(path)
        if not path.is_file():
            raise _refused(
                path,
                "there is no such results file",
                "make one with `lightkv ablate grid.yaml --out FILE`",
            )
        _check_header(path)
        # Not mode=ro: what a killed writer left half written must be rolled back before it is read.
        store = cls(path, _connect(path, "rw"), None)
        try:
            with store._guard("read"):
                store._run("PRAGMA query_only = ON")
            store._read_meta()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file and let the lock go. Safe to call twice."""
        self._connection.close()
        _unlock(self._lock)
        self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- reading ----------------------------------------------------------------------------------

    def cells(self) -> list[Cell]:
        """All cells, in the grid's order.

        A reader finds cells `interrupted` that a process was running which has ended since.

        Raises:
            StoreError: the file cannot be read, or holds what no run writes.
        """
        with self._guard("read"):
            query = f"SELECT {', '.join(_CELL)} FROM cells ORDER BY position"
            cells = [_record(Cell, _CELL, row) for row in self._connection.execute(query)]
            measured = self._measured()
        cells = [replace(cell, measured=measured.get(cell.id)) for cell in cells]
        running = any(cell.status == "running" for cell in cells)
        if self._lock is None and running and not _is_written(self.path):
            return [_interrupted(cell) if cell.status == "running" else cell for cell in cells]
        return cells

    def _measured(self) -> dict[str, Measured]:
        """Identity of a cell → what was measured of it."""
        if not self._has_measured():
            return {}
        rows = self._connection.execute(f"SELECT cell, {', '.join(_MEASURED)} FROM measured")
        return {cell: _record(Measured, _MEASURED, values) for cell, *values in rows}

    def _has_measured(self) -> bool:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'measured'"
        return bool(self._one(query))

    def outcomes(self, cell_id: str) -> list[Outcome]:
        """The outcomes of a cell, ordered by sample; none unless it is done.

        Raises:
            StoreError: the file cannot be read, or holds what no run writes.
        """
        query = f"SELECT {', '.join(_OUTCOME)} FROM samples WHERE cell = ? ORDER BY sample"
        with self._guard("read"):
            rows = self._connection.execute(query, (cell_id,))
            return [_record(Outcome, _OUTCOME, row) for row in rows]

    def grids(self) -> list[dict[str, Any]]:
        """The grids that the cells come from, as plain data, the latest last."""
        latest = self.meta.get("grid")
        return [*self.meta.get("earlier", []), *([] if latest is None else [latest])]

    def holds(self, grid: dict[str, Any]) -> bool:
        """Whether cells of a grid are in the file."""
        return _plain(grid) in self.grids()

    # -- writing ----------------------------------------------------------------------------------

    def add_cells(self, cells: Sequence[Cell]) -> None:
        """Write the cells of a new grid, all or none."""
        with self._writing():
            self._insert("cells", _CELL, [_row(cell, _CELL) for cell in cells])

    def replace_cells(self, cells: Sequence[Cell], grid: dict[str, Any], **meta: Any) -> None:
        """Put other cells in place of those that are there, all or none; outcomes stay.

        Args:
            cells: those of the file that stay, as read, and those of a grid that extends it.
            grid: that grid, as plain data.
            meta: entries that change with it.
        """
        values = {"earlier": self.grids(), "grid": _plain(grid), **meta}
        with self._writing():
            self._run("DELETE FROM cells")
            self._insert("cells", _CELL, [_row(cell, _CELL) for cell in cells])
            self._write_meta(values)
        self.meta.update(values)

    def update_meta(self, **values: Any) -> None:
        """Set entries of `meta`."""
        with self._writing():
            self._write_meta(values)
        self.meta.update(values)

    def start(self, cell: Cell) -> None:
        """Mark a cell as running."""
        with self._writing():
            self._run("UPDATE cells SET status = 'running', reason = '' WHERE id = ?", cell.id)

    def finish(self, cell: Cell, outcomes: Iterable[Outcome]) -> None:
        """Write a cell that ran, with its outcomes, in one transaction.

        Args:
            cell: with `versions`, `seconds`, `retention`, `flops`, `kv_bytes`, `tokens` and `measured`
                set.
            outcomes: of all its samples.
        """
        values_of = attrgetter(*_OUTCOME)
        rows = [(cell.id, *values_of(outcome)) for outcome in outcomes]
        found = ", ".join(f"{column} = ?" for column in _FOUND)
        with self._writing():
            self._forget(cell)
            self._insert("samples", ["cell", *_OUTCOME], rows)
            if cell.measured is not None:
                self._run(_TABLE_MEASURED)
                values = attrgetter(*_MEASURED)(cell.measured)
                self._insert("measured", ["cell", *_MEASURED], [(cell.id, *values)])
            self._run(
                f"UPDATE cells SET status = 'done', reason = '', {found} WHERE id = ?",
                *_row(cell, _FOUND),
                cell.id,
            )

    def fail(self, cell: Cell, reason: str) -> None:
        """Record that a cell did not run, with the error."""
        self._stop(cell, "failed", reason)

    def reset(self, cell: Cell) -> None:
        """Make a cell pending again, without outcomes."""
        self._stop(cell, "pending", "")

    def _stop(self, cell: Cell, status: str, reason: str) -> None:
        with self._writing():
            self._forget(cell)
            self._run(
                "UPDATE cells SET status = ?, reason = ? WHERE id = ?", status, reason, cell.id
            )

    def _forget(self, cell: Cell) -> None:
        """Delete what an earlier run of a cell has left."""
        self._run("DELETE FROM samples WHERE cell = ?", cell.id)
        if self._has_measured():
            self._run("DELETE FROM measured WHERE cell = ?", cell.id)

    # -- inside -----------------------------------------------------------------------------------

    def _initialise(self, grid: dict[str, Any], meta: dict[str, Any]) -> None:
        first = {
            "schema": SCHEMA,
            "grid": _plain(grid),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "baseline": None,
            "baselines": {},
            "versions": {},
            **meta,
        }
        with self._writing():
            self._run(f"PRAGMA application_id = {APPLICATION}")
            self._run(f"PRAGMA user_version = {SCHEMA}")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._run(statement)
            self._write_meta(first)
        self.meta = first

    def _write_meta(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, _dumps(value))

    def _read_meta(self) -> None:
        with self._guard("read"):
            kind, version = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
            if kind != APPLICATION:
                raise _refused(self.path, "a database of another program", "name another file")
            if version != SCHEMA:
                raise _refused(
                    self.path,
                    f"a results file of version {version}; this lightkv reads version {SCHEMA}",
                    "use the lightkv that wrote it, or name another file",
                )
            damage = self._one("PRAGMA quick_check")
            if damage != "ok":
                raise self._damaged(str(damage))
            rows = self._connection.execute("SELECT key, value FROM meta")
            found = {key: _loads("meta", key, value) for key, value in rows}
            _checked("meta", _Meta, found)
            self.meta = found

    def _take_grid(self, grid: dict[str, Any], extend: bool) -> None:
        """Refuse a grid that the file does not hold, unless it has no cells yet, or takes more."""
        with self._guard("read"):
            started = self._one("SELECT count(*) FROM cells") > 0
        if not started:
            self.update_meta(grid=_plain(grid))
        if extend or self.holds(grid):
            return
        remedy = "name another file for this grid, or run the grid that began this one"
        if not any("search" in each for each in (*self.grids(), grid)):
            remedy += "; --extend adds its cells to these"
        raise _refused(
            self.path, "the file holds the results of another grid", remedy, field="--out"
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction: all or nothing."""
        with self._guard("write"):
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                # A full disk ends some transactions by itself.
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
                raise

    @contextmanager
    def _guard(self, verb: str) -> Iterator[None]:
        """Errors of SQLite, and contents that no run writes, as errors that say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(verb, error) from error
        except _MalformedError as error:
            raise self._damaged(str(error)) from error

    def _explained(self, verb: str, error: sqlite3.Error) -> StoreError:
        text = str(error)
        if "locked" in text:
            return _in_use(self.path)
        if "full" in text or "disk I/O" in text or "too big" in text:
            return _refused(
                self.path,
                f"cannot {verb} the results file ({text}); what was finished is in it, whole",
                "make room and run the same command again: it goes on where it stopped",
            )
        if "readonly" in text or "unable to open" in text:
            return _refused(
                self.path,
                f"cannot {verb} the results file ({text})",
                "name a file in a folder that can be written to",
            )
        return self._damaged(text)

    def _damaged(self, what: str) -> StoreError:
        return _refused(
            self.path,
            f"the results file is damaged or no results file ({' '.join(what.split())[:120]}); "
            "it was left as it is",
            "restore it from a copy, or name another file",
        )

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(columns))
        query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        self._connection.executemany(query, rows)

    def _run(self, query: str, *values: Any) -> None:
        self._connection.execute(query, values)

    def _one(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]


# -- the file -------------------------------------------------------------------------------------


def _refused(path: Path, message: str, remedy: str, field: str = "results") -> StoreError:
    return StoreError(message, field=field, value=str(path), remedy=remedy)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that commits when told to; `mode` as in SQLite's URIs."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    remedy = "name a file that can be read and written"
    with file_errors(StoreError, "open the results file", "results", path, remedy, sqlite3.Error):
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _check_place(path: Path) -> None:
    """Refuse a path that no file can be at."""
    what = None
    if path.is_dir():
        what = "it is a directory"
    elif not path.absolute().parent.is_dir():
        what = "its folder does not exist"
    if what is not None:
        raise _refused(
            path,
            f"cannot write the results file: {what}",
            "name a file in a folder that exists",
            field="--out",
        )


def _check_header(path: Path) -> None:
    """Refuse what is no database before SQLite touches it."""
    with file_errors(StoreError, "read the results file", "results", path), path.open("rb") as file:
        head = file.read(len(MAGIC))
    if head != MAGIC:
        raise _refused(
            path, "not a results file of lightkv; it was left as it is", "name another file"
        )


def _lock(path: Path) -> int | None:
    """Take the file for this process; None where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    remedy = "name a file in a folder that can be written to"
    with file_errors(StoreError, "write the results file", "--out", path, remedy):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        os.close(handle)
        raise _in_use(path) from error
    return handle


def _flock(handle: int, kind: int) -> None:
    """Lock at once, or after a moment: a reader that looks for a writer holds a lock briefly."""
    import fcntl

    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        time.sleep(LOOK_SECONDS)
        fcntl.flock(handle, kind | fcntl.LOCK_NB)


def _is_written(path: Path) -> bool:
    """Whether a process holds the file for writing; True where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _interrupted(cell: Cell) -> Cell:
    reason = "the process that ran it has ended; the command that began it runs it again"
    return replace(cell, status="interrupted", reason=reason)


def _unlock(handle: int | None) -> None:
    """Let the file go."""
    if handle is not None:
        os.close(handle)


def _in_use(path: Path) -> StoreError:
    """The error for a file that another process holds."""
    return _refused(
        path,
        "the results file is locked: another process writes it",
        f"wait for it or stop it (on {socket.gethostname()}), or name another file",
    )


# -- rows -----------------------------------------------------------------------------------------


class _MalformedError(ValueError):
    """A readable file holds what no run writes; the store makes its own error of it."""


class _Meta(BaseModel):
    """What `meta` may hold; more is welcome, and older files hold less."""

    model_config = ConfigDict(strict=True)

    grid: dict[str, Any] | None = None
    earlier: list[dict[str, Any]] = []
    baseline: str | None = None
    baselines: dict[str, str] = {}
    remarks: dict[str, str] = {}
    versions: dict[str, str] = {}
    models: dict[str, str] = {}
    created: str | None = None
    threads: int | None = None


def _row(cell: Cell, columns: Sequence[str]) -> list[Any]:
    """What some columns hold of a cell."""
    values = ((column, getattr(cell, column)) for column in columns)
    return [_dumps(value) if column in _JSON else value for column, value in values]


def _record(kind: type[T], columns: Sequence[str], row: Sequence[Any]) -> T:
    """What a row holds.

    Raises:
        _MalformedError: a value that no run writes.
    """
    given = dict(zip(columns, row, strict=True))
    where = "what was measured"
    for what, key in (("cell", "name"), ("sample", "sample")):
        where = f"{what} {given[key]!r}" if key in given else where
    for column in _JSON & given.keys():
        given[column] = _loads(where, column, given[column])
    return _checked(where, kind, given)


def _checked(where: str, kind: Callable[..., T], given: dict[str, Any]) -> T:
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ", ".join(str(part) for part in first["loc"])
        raise _MalformedError(f"{where} has odd {key}: {message_of(first)}") from error


def _plain(data: Any) -> Any:
    """As it will be read back."""
    return json.loads(_dumps(data))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _loads(where: str, key: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _MalformedError(f"{where} has odd {key}: no JSON ({error})") from error
