"""What a search found as plain data, for JSON and other programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from lightkv.lab.designs.findings import TESTED, Findings, Tried


def plain(found: Findings) -> dict[str, Any]:
    """The designs that were chosen with what they lose and cost, what mattered, and the test.

    Changes are of the mean score against the uncompressed model, with bounds of 95 %. `designs` are the
    front, the best drawn design at each retention and all made by hand; `held_out` is their change on
    the held-out data, None before these are asked. `duels` are there after that.
    """
    tests = {test.name: asdict(test.change) for test in found.tests}
    tested = found.meta.get(TESTED) or {}
    return {
        "score": found.score,
        "samples": found.samples,
        "clusters": found.clusters,
        "trials": _trials(found),
        "designs": [_design(tried, tests) for tried in found.chosen],
        "best": [
            {
                "retention": label,
                "drawn": _name(found, label, True),
                "hand_made": _name(found, label),
            }
            for label in found.retentions
        ],
        "effects": [{**asdict(effect), "enough": effect.enough} for effect in found.effects],
        "test_samples": found.test_samples,
        "test_clusters": found.test_clusters,
        "test_begun": tested.get("begun"),
        "duels": [asdict(duel) for duel in found.duels],
    }


def _trials(found: Findings) -> dict[str, int]:
    """How many designs were drawn, and what came of them."""
    drawn = [tried for tried in found.tried if tried.drawn]
    counts = Counter(_outcome(tried) for tried in drawn)
    return {"drawn": len(drawn), **{name: counts[name] for name in sorted(counts)}}


def _outcome(tried: Tried) -> str:
    if tried.repeats:
        return "repeats"
    if tried.finished:
        return "finished"
    return "ended_early" if tried.cell.status == "done" else tried.cell.status


def _design(tried: Tried, tests: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": tried.cell.name,
        "drawn": tried.drawn,
        "wanted": tried.retention,
        "retention": tried.cell.retention,
        "flops": tried.cell.flops,
        "on_front": tried.on_front,
        "choices": tried.choices,
        "pipeline": tried.cell.spec["pipeline"],
        "change": None if tried.sure is None else asdict(tried.sure),
        "held_out": tests.get(tried.cell.name),
    }


def _name(found: Findings, retention: str, drawn: bool = False) -> str | None:
    best = found.best(retention, drawn)
    return None if best is None else best.cell.name
