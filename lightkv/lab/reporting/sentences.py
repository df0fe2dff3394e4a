"""What a study says, in sentences made from its figures."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lightkv.lab.reporting.effects import Effect, by_weight
from lightkv.lab.reporting.formatting import full_text, interval_text, unit_of
from lightkv.lab.reporting.study import Group, Row


def sentences(group: Group, effects: Sequence[Effect]) -> list[Markup]:
    """The uncompressed model, the best cell at each retention, then what matters most.

    Texts of the grid are escaped; the rest is HTML.
    """
    found = []
    if group.vanilla is not None and group.vanilla.score is not None:
        score = interval_text(group.share, group.vanilla.score)
        unit = " %" if group.share else ""
        found.append(Markup("The uncompressed model scores <b>{}</b>{}.").format(score, unit))
    for retention in group.retentions:
        rows = [row for row in group.rows if not row.plain and row.retention == retention]
        found.append(_best(group, retention, rows, len(group.retentions)))
    return found + _axes(group, effects)


def _best(group: Group, retention: str, rows: list[Row], retentions: int) -> Markup:
    """The best cell of one retention, and how many cannot be told from it.

    The truly best is among these and it: it is taken for worse only if one of the comparisons errs.
    """
    best = max(rows, key=lambda row: row.score.value if row.score else float("-inf"))
    assert best.score is not None
    where = Markup("At retention <b>{}</b>").format(retention) if retention else "Of all cells"
    text = Markup("{}, <b>{}</b> scores best of {}: {}{}").format(
        where,
        full_text(best.setting),
        f"{len(rows)} cells" if len(rows) > 1 else "1 cell",
        interval_text(group.share, best.score),
        " %" if group.share else "",
    )
    bases = {row.base for row in group.rows if row.base is not None}
    if best.change is not None:
        gap = interval_text(group.share, best.change, signed=True)
        against = best.base if len(bases) == 1 else "the baseline"
        text += Markup(", {} {} against {}").format(gap, unit_of(group.share), against)
        text += "" if best.change.clear else " (no difference that can be told from zero)"
    elif best.cell.name in bases:
        text += ", and is the baseline"
    gaps = group.estimates([([row], [best]) for row in rows if row is not best], retentions)
    near = sum(not gap.clear for gap in gaps)
    if len(rows) > 1:
        text += Markup("; {} cannot be told from it").format(
            f"{near} of the other {len(rows) - 1}" if near else "none of the others"
        )
    return text + "."


def _axes(group: Group, effects: Sequence[Effect]) -> list[Markup]:
    """The axis with the largest effect, and those without a clear one."""
    ordered = by_weight(list(effects))
    if not ordered:
        return []
    first, rest = ordered[0], [effect for effect in ordered[1:] if effect.change.clear]
    found = []
    if first.change.clear:
        said = (
            "<b>{}</b> matters most: {} instead of {} changes the score by {} {}, averaged over {} "
        )
        found.append(
            _said(group, said, first, unit_of(group.share), first.pairs)
            + "pairs of cells that differ in nothing else."
        )
        if rest:
            texts = [_said(group, "{}: {} instead of {} {}", each) for each in rest]
            found.append(Markup("Also clear of zero: ") + Markup("; ").join(texts) + ".")
    vague = [effect for effect in ordered if not effect.change.clear]
    if vague:
        texts = [_said(group, "{} ({} instead of {}, {})", each) for each in vague]
        found.append(
            Markup("No effect that can be told from zero: {}.").format(Markup(", ").join(texts))
        )
    return found


def _said(group: Group, sentence: str, effect: Effect, *more: object) -> Markup:
    """A sentence with an effect's axis, label, first label and change, and what else it tells."""
    change = interval_text(group.share, effect.change, signed=True)
    return Markup(sentence).format(effect.axis, effect.label, effect.first, change, *more)
