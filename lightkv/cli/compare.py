"""`lightkv compare`: results files beside one another, paired by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import console, print_json, table

if TYPE_CHECKING:
    from lightkv.lab.grids.comparing import Comparison, Pair


FOUND = {"spec": "spec", "computation": "computation", "labels": "labels", "named": "--to"}
UNPAIRED = (
    "Unpaired: the task was drawn with another seed, so the two means are of other samples, and their "
    "difference holds what these differ by; its interval is made of those of both means. Whether an "
    "effect repeats is told by its differences to the baseline, which are paired in each study: "
    "`lightkv export` writes those of both files."
)


def compare(
    results: Annotated[list[Path], typer.Argument(help="Results files; the first is the base.")],
    to: Annotated[
        str | None,
        typer.Option(help="A cell of the first file to compare all cells with, by its name."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the cells of results files with those of the first, paired by sample."""
    from lightkv.lab.grids.comparing import compare as run

    found = run(results, to=to)
    if json:
        print_json(_plain(found))
    else:
        _show(found)


def _plain(found: Comparison) -> dict[str, Any]:
    pairs = [
        {
            "study": pair.study,
            "cell": pair.cell.name,
            "base": pair.base.name,
            "found": pair.found,
            "paired": pair.alike is not None,
            "same": pair.same,
            "difference": asdict(pair.difference),
            "alike": pair.alike,
            "holm": pair.holm,
            "measured": _measured(pair),
        }
        for pair in found.pairs
    ]
    return {
        "studies": found.studies,
        "pairs": pairs,
        "alone": found.alone,
        "differs": found.differs,
    }


def _measured(pair: Pair) -> dict[str, Any] | None:
    """Time and memory of both cells; None where one of them was not measured."""
    if pair.base.measured is None or pair.cell.measured is None:
        return None
    return {"base": asdict(pair.base.measured), "cell": asdict(pair.cell.measured)}


def _show(found: Comparison) -> None:
    out = console()
    heads = ("study", "cell", "found by", "base", "cell", "difference [95 %]", "p", "p, Holm")
    made = table(*heads, "alike", "first", left=3, compact=True)
    for pair in found.pairs:
        made.add_row(*_row(pair))
    out.print(made)
    for text in (*_remarks(found.pairs), *found.differs):
        out.print(text)
    for name, cells in found.alone.items():
        out.print(f"not compared, of {name}: {', '.join(cells)}")
    out.print(
        f"Mean scores of the cell of {found.studies[0]} (base) and of the cell itself, in %, "
        "log-probabilities as they are; differences paired by sample, with intervals of 95 % each (BCa "
        "over pictures); p is McNemar's, and beside it corrected after Holm for all tests of the table. "
        "Found by: what the two cells have in common. "
        "Alike: share of samples with the same answer. First: time to first token, relative to base.",
        style="dim",
    )
    if any(pair.alike is None for pair in found.pairs):
        out.print(UNPAIRED, style="dim")


def _row(pair: Pair) -> list[str]:
    from lightkv.lab.tasks import tasks

    gap, cell, base = pair.difference, pair.cell, pair.base
    task = tasks().get(cell.spec["task"]["name"])
    scale, digits = (100.0, 1) if task is None or task.accuracy else (1.0, 3)
    means = (f"{scale * value:.{digits}f}" for value in (gap.mean_base, gap.mean_other))
    middle, low, high = (f"{scale * v:+.{digits}f}" for v in (gap.difference, gap.low, gap.high))
    chances = ("" if p is None else f"{p:.2g}" for p in (gap.mcnemar_p, pair.holm))
    name = cell.name if cell.name == base.name else f"{cell.name} (to {base.name})"
    first = ""
    if cell.measured is not None and base.measured is not None:
        first = f"× {cell.measured.first_token / base.measured.first_token:.2f}"
    alike = "" if pair.alike is None else f"{pair.alike / gap.n:.3f}"
    found = f"{FOUND[pair.found]}{'' if pair.alike is not None else ', unpaired'}"
    return [pair.study, name, found, *means, f"{middle} [{low}, {high}]", *chances, alike, first]


def _remarks(pairs: Sequence[Pair]) -> list[str]:
    """Whether cells of one spec answered alike."""
    same = [pair for pair in pairs if pair.same]
    other = [pair.cell.name for pair in same if pair.alike != pair.difference.n]
    if not same:
        return []
    if other:
        return [f"Same in everything that decides them, and answered otherwise: {', '.join(other)}"]
    return [
        f"Same in everything that decides them, and answered alike: {len(same)} of {len(pairs)}."
    ]
