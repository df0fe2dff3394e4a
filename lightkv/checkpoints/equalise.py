"""Sessions whose *achieved* retention comes as near to the wanted one as rounding allows."""

from __future__ import annotations

import math
from collections.abc import Callable

from lightkv.core.errors import ConfigError
from lightkv.core.run.session import Session

NEAR_ENOUGH = 0.0025
"""A quarter of a point: how near the achieved retention should come to the wanted one."""
ROUNDS = 8


def equalised(
    wanted: float,
    solved: Callable[[float], Session],
    achieved: Callable[[Session], float],
    rounds: int = ROUNDS,
) -> Session:
    """The session that comes nearest to a retention.

    Small windows round to whole tokens, by up to 3 points of retention with 9 tokens in a window;
    so a schedule is solved again for what the first one missed.

    Args:
        wanted: mean share of vision KV over all layers.
        solved: retention → a session with a schedule for it.
        achieved: what a session comes to.
        rounds: schedules to solve at most.

    Raises:
        ConfigError: no schedule can be solved for the wanted retention itself.
    """
    target, best, best_gap = wanted, None, math.inf
    for _ in range(rounds):
        try:
            session = solved(target)
            gap = wanted - achieved(session)
        except ConfigError:
            if best is None:
                raise
            break
        if abs(gap) < abs(best_gap):
            best, best_gap = session, gap
        target += gap
        if abs(best_gap) <= NEAR_ENOUGH or not 0.0 < target <= 1.0:
            break
    assert best is not None
    return best
