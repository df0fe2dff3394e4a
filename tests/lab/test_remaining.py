"""The time left of a run."""

from dataclasses import replace

from lightkv.lab.grids.remaining import Remaining
from lightkv.lab.outcomes import Cell


def cells(number, task="scenes"):
    return [
        Cell(f"{task}{n}", n, f"{task} {n}", {}, {"model": "demo", "task": {"name": task}})
        for n in range(number)
    ]


def test_time_left():
    now = [0.0]
    made, slow = cells(4), cells(1, "clips")[0]
    left = Remaining([*made, slow], workers=2, clock=lambda: now[0])
    assert left.seconds() is None
    left.started(made[0])
    left.started(made[1])
    now[0] = 10.0
    left.ended(made[0], failed=False)
    # One is at its end, two and the other task's, of which nobody knows better, take ten seconds each.
    assert left.seconds() == 30.0 / 2
    left.ended(made[1], failed=True)
    left.started(slow)
    now[0] = 50.0
    left.ended(slow, failed=False)
    assert left.seconds() == 20.0 / 2
    for cell in made[2:]:
        left.ended(cell, failed=True)
    assert left.seconds() == 0.0


def test_runs_before_tell_first():
    done = [replace(cell, status="done", seconds=3.0) for cell in cells(2)]
    waiting = replace(cells(1)[0], id="new")
    left = Remaining([*done, waiting], workers=4)
    assert left.seconds() == 3.0
