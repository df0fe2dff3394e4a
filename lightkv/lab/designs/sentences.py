"""What a search found, in sentences that say no more than the figures."""

from __future__ import annotations

import re

from lightkv.core import yamls
from lightkv.core.contracts import ROLES
from lightkv.lab.designs.effects import ENOUGH
from lightkv.lab.designs.findings import Duel, Findings
from lightkv.lab.grids.unreached import unreached
from lightkv.lab.stats import Estimate

SURE = 0.05
"""Probability of error up to which a choice is said to matter."""


def sentences(found: Findings) -> list[str]:
    """What the data of the search say."""
    unit = "points" if found.share else "of log-probability"
    score = found.points(found.score, signed=False)
    lines = [f"The uncompressed model scores {score} on the data of the search."]
    for retention in found.retentions:
        drawn, made = (found.best(retention, drawn=drawn) for drawn in (True, False))
        if drawn is None or drawn.change is None:
            lines.append(f"At retention {retention} no drawn design was asked all samples.")
            continue
        text = (
            f"At retention {retention} the best drawn design is {drawn.cell.name}, with "
            f"{found.points(drawn.change)} {unit} against the uncompressed model"
        )
        if made is not None and made.change is not None:
            text += (
                f"; the best one made by hand is {made.cell.name}, with {found.points(made.change)}"
            )
        lines.append(f"{text}.")
    enough = [effect for effect in found.effects if effect.enough]
    named = [effect.path for effect in enough if effect.p <= SURE]
    if named:
        lines.append(f"Choices that went with the score: {', '.join(named)}.")
    elif enough:
        lines.append("No choice went with the score more than chance would have it.")
    few = [effect.path for effect in found.effects if not effect.enough]
    if few:
        lines.append(
            f"Fewer than {ENOUGH} trials are too few to say whether these mattered: {', '.join(few)}. A "
            "choice of three options that does nothing has a share of more than 21 % in one of twenty "
            "searches of 20 trials, and of more than 54 % in one of twenty of 8."
        )
    return [*lines, *_unreached(found)]


def _unreached(found: Findings) -> list[str]:
    """Stages whose overrides keep a component, although the space varies its role."""
    space = found.study["space"]
    if "overrides" in yamls.dump(space):  # then the space says what they are
        return []
    texts: dict[str, list[str]] = {}
    for tried in found.tried:
        pipeline = tried.cell.spec["pipeline"]
        varied = {role: pipeline.get(role) for role in ROLES if role in space}
        text = unreached(pipeline, [varied]) if tried.drawn else ""
        if text:
            texts.setdefault(text, []).append(tried.cell.name)
    return [
        f"In {names[0]}{f' and {len(names) - 1} others' if names[1:] else ''} {text}, which the space "
        "does not vary."
        for text, names in texts.items()
    ]


def test_sentences(found: Findings) -> list[str]:
    """What the held-out data say; before they are asked, how to ask them."""
    if found.tests:
        return [_duel(found, duel) for duel in found.duels] or [
            "No retention has both a drawn design and one made by hand, so there is nothing to compare."
        ]
    if found.study["held_out"] is None:
        return [
            "This study holds no data out. What it found is chosen and judged on the same data."
        ]
    return [
        "The held-out data have not been asked. `lightkv search STUDY --out FILE --test` asks them "
        "once, with the front and the pipelines made by hand; no more trials can be drawn after that."
    ]


def _duel(found: Findings, duel: Duel) -> str:
    unit = "points" if found.share else "of log-probability"
    change = duel.change
    interval = f"{found.points(change.value)} {unit} {_interval(found, change)}"
    verdict = "the two cannot be told apart"
    if change.clear:
        verdict = (
            "the drawn one is better" if change.value > 0 else "the one made by hand is better"
        )
    sides = f"{duel.drawn} against {duel.hand_made}"
    return f"At retention {duel.retention}, {sides}: {interval}; {verdict}."


def _interval(found: Findings, change: Estimate) -> str:
    return f"[{found.points(change.low)}, {found.points(change.high)}]"


def name_of(found: Findings, cell: str) -> str:
    """A pipeline's name: that of the study and of the cell, in letters that file names may have."""
    return re.sub(r"[^\w.=-]+", "-", f"{found.study['name']}-{cell}").strip("-")
