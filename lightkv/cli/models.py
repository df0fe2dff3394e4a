"""`lightkv models`: what becomes of each multimodal type of the installed transformers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import console, print_json, table


def models(
    type: Annotated[
        list[str] | None, typer.Option("--type", help="One model type only; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """List the multimodal types of the installed transformers: which work, and why others do not.

    No weights are read. A type without a family is looked at on its class, with the default config and
    without memory for weights.
    """
    import transformers
    from transformers.utils import logging

    from lightkv.checkpoints.model_types import counts, type_rows

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # remarks on default configs, which nobody chose
    try:
        rows = type_rows(type)
    finally:
        logging.set_verbosity(verbosity)
    data = {
        "transformers": transformers.__version__,
        "types": [_plain(row) for row in rows],
        "counts": counts(rows),
    }
    if json:
        print_json(data)
    else:
        _show(data)


def _plain(row: Any) -> dict[str, Any]:
    told = {} if row.standing is None else asdict(row.standing)
    return {
        "type": row.model_type,
        "class": row.model_class,
        "outcome": row.outcome,
        "adapter": row.adapter,
        "geometry": told.get("how") if row.outcome not in ("refused", "unknown") else None,
        "note": told.get("note", ""),
        "remedy": told.get("remedy", ""),
        "tried": told.get("tried", False),
    }


def _show(data: dict[str, Any]) -> None:
    from lightkv.checkpoints.model_types import OUTCOMES, summary

    out = console()
    types = data["types"]
    works = table("type", "adapter", "geometry", left=3)
    found = table("type", "geometry", "what is known", left=3)
    refused = table("refused", "why, and what would work", left=2)
    reasons: dict[str, list[str]] = {}
    for row in types:
        if row["outcome"] == "auto":
            found.add_row(row["type"], row["geometry"], row["note"] + _untried(row))
        elif row["outcome"] in ("grid", "strip"):
            works.add_row(row["type"], row["adapter"], row["geometry"])
        else:
            told = f"{row['note']}. {row['remedy']}".strip(". ") or "no adapter knows it"
            reasons.setdefault(told, []).append(row["type"])
    for why, names in reasons.items():
        refused.add_row(", ".join(names), why)
    for shown in (works, found, refused):
        if shown.row_count:
            out.print(shown)
    out.print(summary(data["counts"], data["transformers"]))
    for outcome, count in data["counts"].items():
        if count:
            out.print(f"{count:4} {OUTCOMES[outcome]}")


def _untried(row: dict[str, Any]) -> str:
    return "" if row["tried"] else "; never run"
