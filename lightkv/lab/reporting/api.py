"""From a results file to a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightkv.core.errors import ConfigError
from lightkv.lab.reporting.page import check_extra, write_page
from lightkv.lab.reporting.study import Study, build_study
from lightkv.lab.store import Store


def report(results: str | Path | Store, out: str | Path = "report.html") -> Study:
    """Write the results of a grid as one HTML page that needs no network.

    Args:
        results: file that `lightkv ablate` wrote, or an open store; it may still be running.
        out: page to write.

    Returns:
        The figures that the page shows.

    Raises:
        StoreError: the file is missing, damaged, of another version, or has no finished cell.
        ConfigError: the page cannot be written, or the extra `report` is not installed.
    """
    check_extra()
    with _opened(results) as store:
        if Path(out).resolve() == store.path.resolve():
            raise ConfigError(
                "the page would overwrite the results",
                field="--out",
                value=str(out),
                remedy="name another file, such as report.html",
            )
        study = build_study(store.cells(), store.outcomes, store.meta)
        write_page(study, out, store.path.name)
    return study


@contextmanager
def _opened(results: str | Path | Store) -> Iterator[Store]:
    """A store that is given stays open."""
    if isinstance(results, Store):
        yield results
    else:
        with Store.open(results) as store:
            yield store
