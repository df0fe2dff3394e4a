"""From a results file to a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightkv.core.errors import ConfigError
from lightkv.lab.grids.store import MAGIC, Store
from lightkv.lab.reporting.page import check_extra, write_page
from lightkv.lab.reporting.study import Study, build_study

SUFFIXES = (".html", ".htm")


def report(results: str | Path | Store, out: str | Path = "report.html") -> Study:
    """Write the results of a grid as one HTML page that needs no network.

    Args:
        results: file that `lightkv ablate` wrote, or an open store; it may still be running.
        out: page to write.

    Returns:
        The figures that the page shows.

    Raises:
        StoreError: the file is missing, damaged, of another version, or has no finished cell.
        ConfigError: the page cannot be written, would overwrite results or is not named as a page, or
            the extra `report` is not installed.
    """
    check_extra()
    with _opened(results) as store:
        check_page(out, store.path)
        study = build_study(store.cells(), store.outcomes, store.meta)
        write_page(study, out, store.path.name)
    return study


def check_page(out: str | Path, results: Path) -> None:
    """Refuse to write the page where it would cost a grid's results, or where no browser opens it.

    Raises:
        ConfigError: `out` is the results file (under any name), another SQLite file, or does not end
            in .html.
    """
    target, what = Path(out), None
    if target.is_file():
        # Links and spellings of a name lead to the same file.
        if target.samefile(results):
            what = "the page would overwrite the results"
        elif _is_database(target):
            what = "the page would overwrite a database, such as the results of another grid"
    if what is None and target.suffix.lower() not in SUFFIXES:
        what = "not the name of a page"
    if what is not None:
        raise ConfigError(
            what,
            field="--out",
            value=str(out),
            remedy="name another file that ends in .html, such as report.html",
        )


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # writing it will tell


@contextmanager
def _opened(results: str | Path | Store) -> Iterator[Store]:
    """A store that is given stays open."""
    if isinstance(results, Store):
        yield results
    else:
        with Store.open(results) as store:
            yield store
