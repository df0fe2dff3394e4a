"""Cells and samples of results files as flat rows: for CSV, data frames and other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Any, Literal

from lightkv.core.errors import ConfigError, check_known, file_errors
from lightkv.lab.errors import StoreError
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.table import Line, summary
from lightkv.lab.outcomes import Cell

Kind = Literal["cells", "samples"]
KINDS = ("cells", "samples")
Results = Store | str | Path
Row = dict[str, Any]
_MEASURED = ("first_token", "fastest", "slowest", "prompts", "peak_bytes", "machine", "threads")
_MEASURED = (*_MEASURED, "workers")
_DIFFERENCE = ("difference", "low", "high", "wins", "losses", "mcnemar_p")


def rows(results: Results | Sequence[Results], what: Kind = "cells") -> list[Row]:
    """Cells, or samples, of one results file or of several, with the same columns in every row.

    Of a cell: identity, name, factors (`factor_…`), what decides it, status, mean score with its 95 %
    interval, the paired difference to its baseline (`difference_…`), what was counted and what was
    measured (`measured_…`). Of a sample: its cell with factors, and its outcome. Rows of several files
    begin with `study`, the file's name. What is not known is None; nested data are JSON.

    Args:
        results: a path or an open store, or several.
        what: `cells` or `samples`.

    Raises:
        StoreError: a file cannot be read, or two have one name.
        ConfigError: another `what`; of cells, scipy is not installed.
    """
    check_known(ConfigError, "rows are of cells or of samples", "what", what, KINDS)
    given = [results] if isinstance(results, Store | str | Path) else list(results)
    found: list[Row] = []
    with ExitStack() as opened:
        stores = [
            each if isinstance(each, Store) else opened.enter_context(Store.open(each))
            for each in given
        ]
        names = studies(stores)
        factors = list(dict.fromkeys(f for s in stores for c in s.cells() for f in c.factors))
        for name, store in zip(names, stores, strict=True):
            first: Row = {"study": name} if len(stores) > 1 else {}
            made = _cells(store, factors) if what == "cells" else _samples(store, factors)
            found += [{**first, **row} for row in made]
    return found


def studies(stores: Sequence[Store]) -> list[str]:
    """Names of several files, without their ends.

    Raises:
        StoreError: two have one name.
    """
    names = [store.path.stem for store in stores]
    for name in names:
        if names.count(name) > 1:
            raise StoreError(
                "two results files have the same name",
                field="results",
                value=name,
                remedy="rename one, so that their rows can be told apart",
            )
    return names


def frame(results: Results | Sequence[Results], what: Kind = "cells") -> Any:
    """`rows` as a pandas DataFrame.

    Raises:
        ConfigError: pandas is not installed; and as of `rows`.
        StoreError: as of `rows`.
    """
    try:
        import pandas
    except ImportError as error:
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
    what: Kind = "cells",
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


def _cells(store: Store, factors: Sequence[str]) -> Iterator[Row]:
    for line in summary(store):
        cell = line.cell
        yield {
            **_identity(cell, factors),
            "status": cell.status,
            "reason": cell.reason,
            "model": cell.spec.get("model"),
            "dtype": cell.spec.get("dtype"),
            "task": _json(cell.spec.get("task")),
            "data": cell.spec.get("data"),
            "seed": cell.spec.get("seed"),
            "wanted_retention": cell.spec.get("retention"),
            "samples": line.samples,
            "mean": line.mean,
            "mean_low": line.low,
            "mean_high": line.high,
            "baseline": line.baseline,
            **_difference(line),
            "retention": cell.retention,
            "flops": cell.flops,
            "kv_bytes": cell.kv_bytes,
            "seconds": cell.seconds,
            **{f"measured_{key}": getattr(cell.measured, key, None) for key in _MEASURED},
            "tokens": _json(cell.tokens),
            "pipeline": _json(cell.spec.get("pipeline")),
            "versions": _json(cell.versions),
        }


def _difference(line: Line) -> Row:
    gap: Row = {} if line.difference is None else asdict(line.difference)
    names = [name if name == "difference" else f"difference_{name}" for name in _DIFFERENCE]
    found = dict(zip(names, (gap.get(key) for key in _DIFFERENCE), strict=True))
    return {**found, "difference_holm_p": line.holm}


def _samples(store: Store, factors: Sequence[str]) -> Iterator[Row]:
    for cell in store.cells():
        for outcome in store.outcomes(cell.id):
            yield {**_identity(cell, factors), **asdict(outcome)}


def _identity(cell: Cell, factors: Sequence[str]) -> Row:
    labels = {f"factor_{factor}": cell.factors.get(factor) for factor in factors}
    return {"cell": cell.id, "name": cell.name, **labels}


def _json(value: Any) -> str:
    return to_json(value, ensure_ascii=False)
