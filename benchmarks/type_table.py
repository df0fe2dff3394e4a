"""The tables of docs/models.md about adapters and model types, from what is registered.

    python benchmarks/type_table.py [--write docs/models.md]

What a view is stands in the first line of a family's file, behind the colon. The types are those of the
installed transformers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import transformers
from report import fill

from lightkv.adapters import FAMILIES
from lightkv.adapters.hf.family import Family
from lightkv.checkpoints.model_types import OUTCOMES, TypeRow, counts, summary, type_rows

LAST = ("auto", "generic")
"""Adapters of no family."""


def adapters() -> str:
    """A row for each adapter: what it serves, and what its views are."""
    heads = ("adapter", "models", "`model_type`", "takes", "geometry", "what a view is")
    lines = [_line(heads), "|---" * len(heads) + "|"]
    every = [family() for family in FAMILIES if issubclass(family, Family)]
    for adapter in sorted(every, key=lambda each: (each.name in LAST, each.name)):
        types = ", ".join(f"`{name}`" for name in adapter.model_types) or "–"
        takes = "–" if adapter.name in LAST else ", ".join(adapter.modalities)
        cells = (
            f"`{adapter.name}`",
            adapter.models,
            types,
            takes,
            adapter.geometry,
            _view(adapter),
        )
        lines.append(_line(cells))
    return "\n".join(lines)


def _view(adapter: Family) -> str:
    first = (sys.modules[type(adapter).__module__].__doc__ or "").strip().splitlines()[0]
    return (first.partition(": ")[2] or first).rstrip(".")


def types(rows: Iterable[TypeRow]) -> str:
    """How many types work in which way; those without a family; those that are refused, by reason."""
    rows = list(rows)
    found = counts(rows)
    lines = [summary(found, transformers.__version__), ""]
    lines += [f"- {found[outcome]} {OUTCOMES[outcome]}" for outcome in OUTCOMES if found[outcome]]
    guessed = [row for row in rows if row.outcome == "auto"]
    if guessed:
        lines += ["", "| without a family | expected | run here |", "|---|---|---|"]
        lines += [_guessed(row) for row in guessed]
    lines += ["", "| refused | why | what would work |", "|---|---|---|"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.outcome == "refused" and row.standing is not None:
            reasons.setdefault((row.standing.note, row.standing.remedy), []).append(row.model_type)
    for (why, remedy), names in reasons.items():
        lines.append(_line((", ".join(f"`{name}`" for name in names), why, remedy)))
    return "\n".join(lines)


def _guessed(row: TypeRow) -> str:
    assert row.standing is not None
    tried = "yes" if row.standing.tried else "no"
    return _line((f"`{row.model_type}`", row.standing.note, tried))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def tables(rows: Iterable[TypeRow]) -> dict[str, str]:
    """Mark → what stands there."""
    return {"ADAPTERS": adapters(), "TYPES": types(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="fill the marks of this file")
    options = parser.parse_args()
    for mark, text in tables(type_rows()).items():
        if options.write:
            fill(options.write, mark, text)
        else:
            print(text, end="\n\n")


if __name__ == "__main__":
    main()
