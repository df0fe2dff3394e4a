"""How far a run is from the retention that was asked for, in words."""

from __future__ import annotations

MOST_GAP = 0.05
"""Share of the vision KV cache by which a run may differ from what was asked before it is said."""


def gap_text(achieved: float, planned: float, asked: float | None) -> str | None:
    """What a gap between asked and achieved retention is and why; None if it is small.

    Args:
        achieved: mean over the layers, of whole tokens.
        planned: of the schedule, before rounding.
        asked: of a recipe; None for explicit stages, which plan what they are asked for.
    """
    wanted = planned if asked is None else asked
    if abs(achieved - wanted) <= MOST_GAP:
        return None
    source = "planned" if asked is None else "asked for"
    if achieved > wanted:
        why = (
            "of few tokens (small pictures) only whole ones are removed, budgets that "
            "follow from values may leave more than the share, and newlines and the end of the prompt "
            "are never removed"
        )
        remedy = (
            "larger pictures, fewer windows where the schedule has several, or a lower retention"
        )
    else:
        why = (
            "of few tokens the number that is kept is rounded down to whole tokens, and budgets that "
            "follow from values may leave less than the share"
        )
        remedy = "larger pictures or a higher retention"
    return f"retention {achieved:.3f} where {wanted:.3f} was {source}: {why}. What helps: {remedy}"
