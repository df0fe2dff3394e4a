"""The page of a search: the front, what mattered, every design, and the test on held-out data."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from lightkv.core import yamls
from lightkv.lab.designs.effects import ENOUGH
from lightkv.lab.designs.findings import Findings, Tried, findings
from lightkv.lab.designs.plots import plots
from lightkv.lab.designs.sentences import name_of, sentences, test_sentences
from lightkv.lab.grids.store import Store
from lightkv.lab.reporting.page import check_extra, check_page
from lightkv.lab.webpage import rendered, write_text


def search_page(results: str | Path, out: str | Path) -> Findings:
    """Write what a search found as one HTML page that needs no network.

    Args:
        results: file that `lightkv search` wrote; it may still be running.
        out: page to write.

    Returns:
        What the page shows.

    Raises:
        StoreError: the file is missing, damaged or of another version.
        SearchError: it is of a grid, or holds no answers yet.
        ConfigError: the page cannot be written, or the extra `report` is not installed.
    """
    check_extra()
    with Store.open(results) as store:
        check_page(out, store.path)
        found = findings(store)
    write_text(out, page(found, Path(results).name), "--page")
    return found


def page(found: Findings, source: str = "results") -> str:
    """The findings as a page.

    Args:
        found: of a search.
        source: name of the results file, for the footer.

    Raises:
        ConfigError: the extra `report` is not installed.
    """
    check_extra()
    here, reports = files("lightkv.lab.designs"), files("lightkv.lab.reporting")
    return rendered(
        (here / "page.html").read_text(encoding="utf-8"),
        style=(reports / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        data=plots(found),
        name=found.study["name"],
        facts=_facts(found),
        lines=sentences(found),
        effects=[_effect(found, number) for number in range(len(found.effects))],
        tests=_tests(found),
        test_lines=test_sentences(found),
        rows=[_row(found, number, tried) for number, tried in enumerate(_ordered(found))],
        source=source,
    )


def _facts(found: Findings) -> list[tuple[str, str]]:
    study = found.study
    drawn = [tried for tried in found.tried if tried.drawn]
    held = f"{found.test_samples:,} in {found.test_clusters:,} clusters" if found.tests else ""
    facts = {
        "model": study["model"],
        "task": study["task"]["name"],
        "samples of the search": f"{found.samples:,} in {found.clusters:,} clusters",
        "held-out samples": held or ("not asked yet" if study["held_out"] else "none"),
        "trials": f"{len(drawn)}, of which {_ended_early(drawn)} ended early",
        "retentions": ", ".join(found.retentions),
        "sampler": f"{study['sampler']}, seed {study['seed']}",
        "versions": ", ".join(f"{k} {v}" for k, v in found.meta.get("versions", {}).items()),
    }
    return [(key, value) for key, value in facts.items() if value]


def _ended_early(tried: list[Tried]) -> int:
    return sum(t.samples > 0 and not t.finished and not t.repeats for t in tried)


def _ordered(found: Findings) -> list[Tried]:
    """The front first, then those of all samples, then those that ended early, the best first."""
    return sorted(
        found.tried,
        key=lambda t: (not t.on_front, not t.finished, t.change is None, -(t.change or 0.0)),
    )


def _row(found: Findings, number: int, tried: Tried) -> dict[str, Any]:
    cell = tried.cell
    sure = tried.sure
    interval = f"[{found.points(sure.low)}, {found.points(sure.high)}]" if sure else ""
    state = "on the front" if tried.on_front else ("all" if tried.finished else "ended early")
    if cell.status != "done":
        state = f"as {tried.repeats}" if tried.repeats else cell.status
    pipeline = cell.spec["pipeline"]
    return {
        "number": number,
        "name": cell.name,
        "kind": "drawn" if tried.drawn else "made by hand",
        "front": tried.on_front,
        "status": cell.status,
        "retention": tried.retention,
        "achieved": "" if cell.retention is None else f"{cell.retention:.3f}",
        "flops": "" if cell.flops is None else f"{cell.flops:.3f}",
        "change": "" if tried.change is None else found.points(tried.change),
        "interval": interval,
        "samples": tried.samples or "",
        "state": state,
        "reason": "" if tried.repeats else cell.reason,
        "choices": ", ".join(f"{key} {label}" for key, label in tried.choices.items()),
        "pipeline": yamls.dump({**pipeline, "name": name_of(found, cell.name)}, width=100),
    }


def _effect(found: Findings, number: int) -> dict[str, Any]:
    effect = found.effects[number]
    return {
        "path": effect.path,
        "trials": effect.trials,
        "few": "" if effect.enough else f"fewer than {ENOUGH}: too few",
        "share": f"{100.0 * effect.share:.0f} %",
        "p": "<0.01" if effect.p < 0.01 else f"{effect.p:.2f}",
        "levels": [
            {"label": each.label, "trials": each.trials, "gain": found.points(each.gain)}
            for each in effect.levels
        ],
    }


def _tests(found: Findings) -> list[dict[str, str]]:
    searched = {tried.cell.name: tried for tried in found.tried}
    rows = []
    for test in sorted(found.tests, key=lambda test: test.cell.flops or 0.0):
        before, change = searched[test.name], test.change
        rows.append(
            {
                "name": test.name,
                "kind": "drawn" if before.drawn else "made by hand",
                "retention": "" if test.cell.retention is None else f"{test.cell.retention:.3f}",
                "flops": "" if test.cell.flops is None else f"{test.cell.flops:.3f}",
                "before": "" if before.change is None else found.points(before.change),
                "change": found.points(change.value),
                "interval": f"[{found.points(change.low)}, {found.points(change.high)}]",
            }
        )
    return rows
