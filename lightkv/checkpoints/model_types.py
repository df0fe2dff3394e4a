"""What becomes of each multimodal type of the installed transformers, told without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightkv.core.errors import ModelError, check_known
from lightkv.core.run.adapter import standing_of
from lightkv.core.run.refusal import GRID, REFUSED, STRIP, Standing

OUTCOMES = {
    GRID: "work with true grids",
    STRIP: "work as strips: their tokens have no place in the picture",
    "auto": "have no family, but the usual names: they run with a warning (adapter `auto`)",
    REFUSED: "are refused with the reason",
    "unknown": "are unknown to every adapter",
}
"""Outcome → what it means. `unknown` is a mistake of lightkv's: no adapter spoke."""


@dataclass(frozen=True)
class TypeRow:
    """One model type.

    Attributes:
        model_type: value of `config.model_type`.
        model_class: of transformers.
        adapter: who spoke; None if nobody did.
        standing: what it said.
    """

    model_type: str
    model_class: str
    adapter: str | None
    standing: Standing | None

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.standing is None:
            return "unknown"
        return "auto" if self.standing.guessed else self.standing.how


def type_rows(names: Sequence[str] | None = None) -> list[TypeRow]:
    """A row for each type, in alphabetical order.

    Args:
        names: of the types; all if None.

    Raises:
        ModelError: no multimodal type of the installed transformers has such a name.
    """
    from lightkv.adapters.hf.contact import multimodal_types

    known = multimodal_types()
    for name in names or ():
        what = "the installed transformers has no multimodal type of that name"
        check_known(ModelError, what, "type", name, known)
    rows = []
    for name in known if names is None else sorted(set(names)):
        adapter, standing = standing_of(name) or (None, None)
        rows.append(TypeRow(name, known[name], adapter, standing))
    return rows


def counts(rows: Sequence[TypeRow]) -> dict[str, int]:
    """Outcome → how many types, those of `OUTCOMES` in their order."""
    found = Counter(row.outcome for row in rows)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def summary(found: Mapping[str, int], release: str) -> str:
    """How many types there are, and how many of them a family serves, up to a colon.

    Args:
        found: of `counts`, for all types that are listed.
        release: of transformers.
    """
    served = found[GRID] + found[STRIP]
    return (
        f"Of {sum(found.values())} multimodal types of transformers {release}, {served} have a family "
        "that serves them:"
    )
