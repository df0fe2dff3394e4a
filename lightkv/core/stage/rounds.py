"""The rounds of a stage on a layout, planned before anything runs.

A stage between layers is one round. One on the cache takes as many as its matcher needs to remove the
ratio, each on what the round before left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from lightkv.core.layout import VisionLayout
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Stage

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PlannedRound:
    """One round.

    Attributes:
        stage: its components.
        before: the layout that it meets.
        plan: what it does to that layout.
    """

    stage: Stage
    before: VisionLayout
    plan: StagePlan

    def after(self) -> VisionLayout:
        """A layout with what is known ahead of the one that the round leaves.

        How many tokens survive, and in which groups, is known; which ones is not, so the places that
        it names mean nothing.
        """
        plan, index = self.plan, self.before.token_index(_CPU)
        return self.before.evolved(plan.length, plan.groups, plan.pads, index)


def plan_rounds(
    rounds: Sequence[Stage], layout: VisionLayout, plan: Callable[[int, VisionLayout], StagePlan]
) -> Iterator[PlannedRound]:
    """Each round of a stage, from the layout that the first one meets.

    Args:
        rounds: their components.
        layout: who takes part.
        plan: (number of the round, layout) → its plan.
    """
    for number, stage in enumerate(rounds):
        planned = PlannedRound(stage, layout, plan(number, layout))
        yield planned
        layout = planned.after()
