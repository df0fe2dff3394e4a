"""Cells that were skipped as repeats count in a report's averages, with the figures of their twins."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_study import AXES, study
from test_report_page import built_of, data_of

from lightkv.lab.grids.cells import REPEAT
from lightkv.lab.reporting.effects import main_effects
from lightkv.lab.reporting.page import page


def seeded_study():
    """Random matching with two seeds against a method that draws nothing: its second seed is a repeat.

    Cells: vanilla, exact at seed 0, random at seeds 0 and 1, exact at seed 1, which was skipped.
    """
    axes = {"matcher": {"exact": 0.0, "random": -1.2}}
    cells, outcomes, meta = study(20, (0.3,), axes, unfinished=())
    again, _, _ = study(20, (0.3,), axes, seed=1, unfinished=())
    other = study(20, (0.3,), axes, seed=1, unfinished=())[1][again[2].id]
    specs = {"exact": {"matcher": "exact"}, "random": {"matcher": "random", "seed": 0}}
    for cell in cells[1:]:
        label = cell.factors["matcher"]
        cells[cell.position] = replace(cell, spec={**cell.spec, "pipeline": specs[label]})
    for number, cell in ((3, cells[2]), (4, cells[1])):
        pipeline = {**cell.spec["pipeline"], "name": "another name"}
        pipeline |= {"seed": 1} if number == 3 else {}
        changes = {"factors": {**cell.factors, "seed": "1"}, "position": number}
        changes |= {"spec": {**cell.spec, "seed": 1, "pipeline": pipeline}}
        cells.append(replace(cell, id=f"seed 1, {number}", name=f"{cell.name} seed=1", **changes))
    reason = f"{REPEAT}{cells[1].name!r}"
    cells[4] = replace(cells[4], status="skipped", reason=reason, retention=None, tokens=())
    return cells, {**outcomes, cells[3].id: other}, meta


def test_repeats_count_in_the_effects_and_nowhere_else():
    cells, outcomes, meta = seeded_study()
    found = built_of(cells, outcomes, meta)
    [group] = found.groups
    exact, first, second, skipped = found.rows[1:]
    [effect] = main_effects(found, group)
    assert effect.pairs == 2
    mean = np.mean([first.score.value, second.score.value])
    assert effect.change.value == pytest.approx(mean - exact.score.value)
    lines = data_of(page(found))["groups"][0]["quality"]["by matcher"]["retention"]["data"]
    own = next(line for line in lines if line["name"] == "exact" and line.get("text"))
    assert own["y"] == pytest.approx([100 * exact.score.value], abs=1e-3)
    # The cell itself stays skipped.
    assert (skipped.score, skipped.group, skipped.change) == (None, None, None)
    assert len(group.rows) == 4
    assert '<tr class="cell skipped"' in page(found)


def test_what_a_rule_skips_stays_out():
    cells, outcomes, meta = seeded_study()
    ruled = [*cells[:4], replace(cells[4], reason="not wanted")]
    found = built_of(ruled, outcomes, meta)
    assert [effect.pairs for effect in main_effects(found, found.groups[0])] == [1]
    pending = [replace(cells[1], status="pending"), *cells[2:]]
    assert built_of([cells[0], *pending], outcomes, meta).groups[0].repeats == []


def test_labels_that_compute_the_same_have_no_effect():
    cells, outcomes, meta = study(
        12, (0.5, 0.2), {"note": {"a": 0.0, "b": 0.0}, "mean": AXES["mean"]}, unfinished=()
    )
    for cell in cells[1:]:
        pipeline = {"mean": cell.factors["mean"], "retention": cell.factors["retention"]}
        cell = replace(cell, spec={**cell.spec, "pipeline": pipeline})
        if cell.factors["note"] == "b":
            cell = replace(cell, status="skipped", reason=f"{REPEAT}'its twin'")
        cells[cell.position] = cell
    found = built_of(cells, outcomes, meta)
    effects = main_effects(found, found.groups[0])
    same = [(e.pairs, e.change.value, e.change.low, e.change.high) for e in effects[:3]]
    assert [effect.axis for effect in effects[:3]] == ["note"] * 3
    assert same == [(4, 0.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0)]
    assert [effect.pairs for effect in effects[3:]] == [4, 2, 2]
    assert "note (b instead of a, 0.0 [0.0, 0.0])" in page(found)
