"""Results files as rows for CSV, data frames and other programs: cells, samples, kinds, effects."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from json import dumps as to_json
from pathlib import Path
from typing import Any, Literal

from lightkv.core.errors import ConfigError, check_known, file_errors
from lightkv.lab.grids.flat import Row, cell_rows, factors_of, sample_rows, studies
from lightkv.lab.grids.store import Store
from lightkv.lab.reporting.flat import effect_rows, kind_rows

What = Literal["cells", "samples", "kinds", "effects"]
MADE: dict[str, Callable[[Store, Sequence[str]], Iterable[Row]]] = {
    "cells": cell_rows,
    "samples": sample_rows,
    "kinds": kind_rows,
    "effects": effect_rows,
}
Results = Store | str | Path


def rows(results: Results | Sequence[Results], what: What = "cells") -> list[Row]:
    """What one results file holds, or several, with the same columns in every row.

    Of a cell: identity, name, factors (`factor_…`), what decides it, status, mean score with its 95 %
    interval, the paired differences to its baseline (`difference_…`) and to the uncompressed model
    (`vanilla_…`), what was counted and what was measured (`measured_…`). Of a sample: its cell with
    factors, and its outcome. Of a kind: a cell's score at one kind of question, with the difference to
    its baseline. Of an effect: a label of an axis against the axis' first one, see `effect_rows`.
    Rows of several files begin with `study`, the file's name. What is not known is None; nested data are
    JSON.

    Args:
        results: a path or an open store, or several.
        what: `cells`, `samples`, `kinds` or `effects`.

    Raises:
        StoreError: a file cannot be read, two have one name, or kinds or effects are wanted of a file
            without a finished cell.
        ConfigError: another `what`; of all but samples, scipy is not installed.
    """
    check_known(ConfigError, "there are no such rows", "what", what, MADE)
    given = [results] if isinstance(results, Store | str | Path) else list(results)
    found: list[Row] = []
    with ExitStack() as opened:
        stores = [
            each if isinstance(each, Store) else opened.enter_context(Store.open(each))
            for each in given
        ]
        factors = factors_of(stores)
        for name, store in zip(studies(stores), stores, strict=True):
            first: Row = {"study": name} if len(stores) > 1 else {}
            found += [{**first, **row} for row in MADE[what](store, factors)]
    return found


def frame(results: Results | Sequence[Results], what: What = "cells") -> Any:
    """`rows` as a pandas DataFrame.

    Raises:
        ConfigError: pandas is not installed; and as of `rows`.
        StoreError: as of `rows`.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ConfigError(
            "pandas is not installed",
            field="frame",
            remedy="pip install pandas, or use lightkv.lab.rows, which needs none",
        ) from error
    return pandas.DataFrame(rows(results, what))


def csv_text(found: Sequence[Row]) -> str:
    """Rows as CSV with a head (RFC 4180, but for line ends); what is not known is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def export(
    results: Results | Sequence[Results],
    out: str | Path,
    what: What = "cells",
    *,
    overwrite: bool = False,
    json: bool | None = None,
) -> int:
    """Write `rows` as CSV or JSON; how many there are.

    Args:
        results, what: as of `rows`.
        out: a new file.
        overwrite: replace a file that is there.
        json: JSON and not CSV; by default where `out` ends in `.json`.

    Raises:
        ConfigError: `out` is there already, or cannot be written; and as of `rows`.
        StoreError: as of `rows`.
    """
    out = Path(out)
    check_new(out, overwrite)
    found = rows(results, what)
    as_json = out.suffix == ".json" if json is None else json
    text = json_text(found) if as_json else csv_text(found)
    remedy = "name a file in a folder that exists"
    with file_errors(ConfigError, "write the file", "--out", out, remedy):
        out.write_text(text, encoding="utf-8")
    return len(found)


def check_new(out: Path, overwrite: bool) -> None:
    """Refuse a file that is there, unless it may be replaced; never replace a results file.

    Raises:
        ConfigError: it is there.
    """
    if not out.exists():
        return
    with file_errors(ConfigError, "read the file", "--out", out), out.open("rb") as file:
        database = file.read(6) == b"SQLite"
    if database or not overwrite:
        raise ConfigError(
            "the file is there already; it was left as it is",
            field="--out",
            value=str(out),
            remedy="name another file" + ("" if database else ", or allow it with --overwrite"),
        )


def json_text(found: Sequence[Row]) -> str:
    """Rows as a JSON list; bounds that are infinite, which JSON cannot say, are null."""
    plain = [{key: _finite(value) for key, value in row.items()} for row in found]
    return to_json(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
