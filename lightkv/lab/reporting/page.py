"""From a results file to a page: one HTML file that loads nothing."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.lab.grids.store import MAGIC, Store
from lightkv.lab.reporting.effects import Effect, by_weight, main_effects
from lightkv.lab.reporting.formatting import full_text
from lightkv.lab.reporting.study import Group, Study, build_study
from lightkv.lab.reporting.table import table_of
from lightkv.lab.webpage import rendered, write_text

EXTRA = "report"
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
    # A store that is given stays open.
    given = isinstance(results, Store)
    with nullcontext(results) if given else Store.open(results) as store:
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


def check_extra() -> None:
    """Fail before the work if the extra is not installed.

    Raises:
        ConfigError: no plotly, jinja2 or scipy.
    """
    from importlib.util import find_spec

    for name in ("plotly", "jinja2", "scipy"):
        if find_spec(name) is None:
            raise ConfigError(
                f"a report needs {name}, which is not installed",
                field="report",
                remedy=f"pip install 'lightkv[{EXTRA}]'",
            )


def page(study: Study, source: str = "results") -> str:
    """The study as a page.

    Args:
        study: figures of a grid.
        source: name of the results file, for the footer.

    Raises:
        ConfigError: the extra `report` is not installed.
    """
    check_extra()
    from lightkv.lab.reporting.figures import figures
    from lightkv.lab.reporting.sentences import sentences

    effects = [main_effects(study, group) for group in study.groups]
    shown = []
    for group, own in zip(study.groups, effects, strict=True):
        drawn = figures(study, group, own)
        shown.append({**drawn, "view": _first_view(drawn["quality"], own)})
    template, style, script = (_text(f"page.{kind}") for kind in ("html", "css", "js"))
    return rendered(
        template,
        style=style,
        script=script,
        data={"groups": shown},
        name=_name(study),
        facts=facts(study),
        unfinished=unfinished(study),
        groups=study.groups,
        summaries=[sentences(*each) for each in zip(study.groups, effects, strict=True)],
        clustered=_clustered(study.groups),
        source=source,
        **table_of(study),
    )


def write_page(study: Study, path: str | Path, source: str = "results") -> None:
    """Write the page.

    Raises:
        ConfigError: the file cannot be written, or the extra is not installed.
    """
    write_text(path, page(study, source), "--out")


def facts(study: Study) -> list[tuple[str, str]]:
    """What the head of the page tells of the grid."""
    cells = [row.cell for row in study.rows]
    done = sum(cell.status == "done" for cell in cells)
    groups = study.groups
    counts = dict.fromkeys(f"{g.samples:,} in {g.clusters:,} clusters" for g in groups)
    baselines = list(dict.fromkeys(row.base for row in study.rows if row.base))
    against = baselines[0] if len(baselines) == 1 else f"{len(baselines)} cells, one for each case"
    grid = study.meta.get("grid")
    wanted = grid.get("baseline") if isinstance(grid, dict) else None
    if len(baselines) > 1 and isinstance(wanted, dict):
        against = full_text(wanted)
    versions = {**study.meta.get("versions", {})}
    for cell in cells:
        versions.update(cell.versions)
    created = str(study.meta.get("created", "")).replace("T", " ").split("+")[0]
    machines = dict.fromkeys(c.measured.where for c in cells if c.measured is not None)
    found = {
        "model": ", ".join(dict.fromkeys(group.model for group in groups)),
        "task": ", ".join(dict.fromkeys(group.task for group in groups)),
        "samples per cell": "; ".join(counts),
        "cells": f"{done} of {len(cells)} done",
        "baseline": against if baselines else "",
        "begun": f"{created} UTC" if created else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "measured on": "; ".join(machines),
    }
    return [(key, value) for key, value in found.items() if value]


def unfinished(study: Study) -> str:
    """What is missing from the figures; empty if nothing."""
    counts: dict[str, int] = {}
    for row in study.rows:
        if row.cell.status != "done":
            counts[row.cell.status] = counts.get(row.cell.status, 0) + 1
    if not counts:
        return ""
    words = {
        "pending": "not run yet",
        "running": "still running",
        "interrupted": "interrupted when their process ended",
    }
    parts = [f"{count} {words.get(status, status)}" for status, count in counts.items()]
    return (
        f"Not all of the {len(study.rows)} cells are in the figures: {', '.join(parts)}. "
        "The table has the reasons."
    )


# -- inside ---------------------------------------------------------------------------------------


def _text(name: str) -> str:
    return (files("lightkv.lab.reporting") / name).read_text(encoding="utf-8")


def _name(study: Study) -> str:
    grid = study.meta.get("grid")
    return str(grid.get("name") or "grid") if isinstance(grid, dict) else "grid"


def _first_view(quality: dict[str, Any], effects: list[Effect]) -> str:
    """Each setting where these are few; else the lines of the axis that matters most."""
    from lightkv.lab.reporting.figures import FEW

    each = next(iter(quality))
    lines = sum(trace.get("meta") != "band" for trace in quality[each]["retention"]["data"])
    strongest = by_weight(effects)
    return f"by {strongest[0].axis}" if strongest and lines > FEW + 1 else each


def _clustered(groups: list[Group]) -> str:
    return "samples" if all(g.clusters == g.samples for g in groups) else "clusters of samples"
