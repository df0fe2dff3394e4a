"""`lightkv search`: draw designs, compare them, and test what was found once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.options import Changes, Device, Json, read_changes
from lightkv.cli.output import (
    check_writable,
    console,
    counting_bar,
    notes,
    print_json,
    stoppable,
    table,
    writing,
)
from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.lab.designs.findings import Findings
    from lightkv.lab.designs.run import Progress as Step


def search(
    study: Annotated[Path | None, typer.Argument(help="A search study in YAML.")] = None,
    out: Annotated[Path, typer.Option(help="The results file (SQLite).")] = Path("search.sqlite"),
    page: Annotated[
        Path | None, typer.Option(help="The page to write [the results' name, with .html].")
    ] = None,
    front: Annotated[
        Path | None, typer.Option(help="A folder to write the pipelines of the front into.")
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Then ask the held-out data, once; it ends the search.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Run nothing; table and page of --out.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Of torch [all].")] = None,
    device: Device = None,
    changes: Changes = None,
    json: Json = False,
) -> None:
    """Search components, parameters and schedules: quality against FLOPs; run again, it goes on."""
    from lightkv.lab.designs.page import search_page
    from lightkv.lab.designs.plain import plain
    from lightkv.lab.reporting.page import check_extra

    check_extra()  # before hours of work that end in a page
    target = out.with_suffix(".html") if page is None else page
    check_writable(str(target), "--page")
    check_writable(str(out), "--out")
    if not show:
        _run(study, out, test, threads, device, read_changes(changes or (), "trials=40"))
    found = search_page(out, target)
    if front is not None:
        _write_front(found, front)
    if json:
        print_json({**plain(found), "page": str(target)})
        return
    _show(found)
    console().print(f"wrote {target}", soft_wrap=True)
    if front is not None:
        console().print(f"wrote {len(found.front)} pipelines into {front}", soft_wrap=True)


def _run(
    study: Path | None,
    out: Path,
    test: bool,
    threads: int | None,
    device: str | None,
    changes: dict[str, Any],
) -> None:
    if study is None:
        raise ConfigError(
            "there is nothing to search",
            field="STUDY",
            remedy="give a study in YAML, or --show for the results that are there",
        )
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.lab.designs.run import search_designs
    from lightkv.lab.designs.schema import SearchStudy

    wanted = SearchStudy.read(study, changes)
    quiet_libraries()
    with stoppable(out), _bar() as progress:
        search_designs(
            wanted, out=out, test=test, threads=threads, device=device, progress=progress
        )


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar over designs; a line for each of them without a terminal."""
    out = notes()
    with counting_bar("designs", speed_estimate_period=24 * 3600) as bar:
        task = bar.add_task("reading the study", total=None)

        def advance(step: Step) -> None:
            early = f"{step.beaten} ended early, " if step.beaten else ""
            text = early + (step.cell or "")
            bar.update(task, completed=step.done, total=step.total, description=text)
            if not out.is_terminal and step.cell is not None:
                out.print(f"{step.done} of {step.total} done: {step.cell}")

        yield advance


# -- printing -------------------------------------------------------------------------------------


def _show(found: Findings) -> None:
    from lightkv.lab.designs.sentences import sentences, test_sentences

    out = console()
    tests = {test.name: test.change for test in found.tests}
    heads = ["design", "retention", "achieved", "FLOPs", "change [95 %]"]
    rows = table(*heads, *(["held out [95 %]"] if tests else []), compact=True)
    for tried in found.chosen:
        cell, sure = tried.cell, tried.sure
        assert sure is not None
        line = [
            cell.name + (" *" if tried.on_front else ""),
            tried.retention,
            f"{cell.retention:.3f}",
            f"{cell.flops:.3f}",
            _interval(found, sure),
        ]
        if tests:
            line.append(_interval(found, tests[cell.name]) if cell.name in tests else "")
        rows.add_row(*line)
    out.print(rows)
    for sentence in (*sentences(found), *test_sentences(found)):
        out.print(sentence)
    out.print(
        "A star: on the front, no design costs less and scores as much. Changes are of the score "
        "against the uncompressed model, "
        + ("in percent points" if found.share else "of mean log-probabilities")
        + ", paired, with intervals by bootstrap over pictures; those of the search are of designs that "
        "were chosen by them.",
        style="dim",
    )


def _interval(found: Findings, change: Any) -> str:
    low, high = found.points(change.low), found.points(change.high)
    return f"{found.points(change.value)} [{low}, {high}]"


def _write_front(found: Findings, folder: Path) -> None:
    from lightkv.core.pipeline.pipeline import PipelineSpec
    from lightkv.lab.designs.sentences import name_of

    with writing(str(folder), "--front"):
        folder.mkdir(parents=True, exist_ok=True)
        for tried in found.front:
            name = name_of(found, tried.cell.name)
            spec = PipelineSpec.parse({**tried.cell.spec["pipeline"], "name": name})
            (folder / f"{name}.yaml").write_text(spec.to_yaml(), encoding="utf-8")
