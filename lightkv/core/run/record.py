"""The record of a finished pass: what ran, as it was planned. Reports are written from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lightkv.core.assignment import Assignment
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.stage.cache_entries import CachedLayer
from lightkv.core.stage.plan import StagePlan


@dataclass(frozen=True)
class StageRecord:
    """A stage between layers that removed something.

    Attributes:
        after_layer: how many layers ran before it.
        placed: the stage.
        plan: by which it ran. A dynamic budget may have left fewer tokens than it says.
        before, after: the layouts around it.
        assignment: who flowed into whom.
        score: `[V]` importances that it was given, or None.
    """

    after_layer: int
    placed: PlacedStage
    plan: StagePlan
    before: VisionLayout
    after: VisionLayout
    assignment: Assignment
    score: torch.Tensor | None


@dataclass(frozen=True)
class PassRecord:
    """A pass that compressed, as it ended.

    Attributes:
        run: its number in the session.
        pipeline: what ran.
        layout: of the prompt, before any stage.
        stages: those between layers that removed something, in their order.
        cached: layer → what the stage on the cache did there, where it removed something.
        cache_plans: layer → the plans of its rounds there.
    """

    run: int
    pipeline: Pipeline
    layout: VisionLayout
    stages: tuple[StageRecord, ...]
    cached: Mapping[int, CachedLayer]
    cache_plans: Mapping[int, Sequence[StagePlan]]

    def layouts(self) -> list[VisionLayout]:
        """The layout that each layer sees."""
        found, current = [], self.layout
        starts = {stage.after_layer: stage.after for stage in self.stages}
        for layer in range(self.pipeline.num_layers):
            current = starts.get(layer, current)
            found.append(current)
        return found
