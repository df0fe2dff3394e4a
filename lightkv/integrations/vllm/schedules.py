"""The pipeline that the engine runs: stages where vLLM's groups of layers waste little.

For the same retention some layers cost vLLM more than others. With stages after 11, 19 and 27 of 40
layers there are 6 groups of 8 layers, 8 of them padding; with stages after 10, 20 and 30 there are 4
groups of 10 and no padding. Core's solver weighs that against the published spacing. The choice
depends on the pipeline, the decoder's depth and the block size, and on no request, so scheduler and
workers make it independently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from lightkv.checkpoints.published import TEXT_TOKENS
from lightkv.core.errors import check_least
from lightkv.core.pipeline.pipeline import (
    Changes,
    Pipeline,
    PipelineSource,
    resolve_spec,
    searched_places,
)
from lightkv.core.pipeline.places import Places
from lightkv.core.pipeline.recipe import Recipe
from lightkv.integrations.vllm.blocks import segments_of
from lightkv.integrations.vllm.groups import Grouping, group_layers

__all__ = ["VISION_TOKENS", "serving_pipeline"]

VISION_TOKENS = 576
"""Vision tokens of the prompt that choices are weighed by: one picture of LLaVA-1.5."""

GROUP = 0.2
"""What a group is charged, in layers that hold an uncompressed prompt.

Each group has a block table, slots and metadata of its own, which the host fills in every step. 0.2
leaves the bundled model and LLaVA-1.5-7B with their 7 and 6 groups at retention 0.55, where 12 and 8
groups would have no padding.
"""


def serving_pipeline(
    source: PipelineSource,
    num_layers: int,
    *,
    block_size: int,
    places: Places | None = None,
    min_layer: int = 0,
    tokens: int = VISION_TOKENS,
    **changes: Unpack[Changes],
) -> Pipeline:
    """As `Pipeline.build`, with layers chosen for vLLM where the recipe leaves the choice.

    Stages that are listed stay as they are, and so do recipes with layers of their own (`after_layer`,
    `depths`). There are as many stages as with `Pipeline.build`, and never more padding layers.

    Args:
        source: a spec, a preset's name, a path to a YAML file or plain data.
        num_layers: decoder layers.
        block_size: tokens of a block.
        places: where the decoder lets stages act; anywhere if None.
        min_layer: layers that the model needs to run before the first stage, if that is all that
            `places` would say.
        tokens: vision tokens of a usual prompt.
        changes: what to replace in it: `retention`, roles, `positions`, `schedule`, ….

    Raises:
        ConfigError: anything that cannot work, before a model is touched.
    """
    check_least("block_size", block_size)
    check_least("tokens", tokens)
    spec = resolve_spec(source)
    if changes:
        spec = spec.updated(**changes)
    plain = Pipeline.build(spec, num_layers, places=places, min_layer=min_layer)
    if not isinstance(spec.schedule, Recipe) or not spec.schedule.searches_layers:
        return plain
    most = group_layers(segments_of(plain)).padding
    charged = spec.schedule.schedule(
        num_layers,
        surcharge=_Waste(num_layers, block_size, tokens, most),
        allowed=searched_places(spec, num_layers, plain.places),
    )
    if charged == plain.schedule:
        return plain
    chosen = spec.model_copy(update={"schedule": charged.stages})
    return replace(Pipeline.build(chosen, num_layers, places=plain.places), asked=plain.asked)


@dataclass(frozen=True)
class _Waste:
    """What stages cost vLLM beyond the tokens that layers hold (a `Surcharge` of core's solver).

    A padding layer takes what a layer of its group takes: the vision tokens that are left, the text,
    and half a block on average, as the text of a request decides where its last block ends.

    Attributes:
        num_layers: decoder layers.
        block_size: tokens of a block.
        tokens: vision tokens of a usual prompt.
        most: padding layers that may not be exceeded.
    """

    num_layers: int
    block_size: int
    tokens: int
    most: int

    def __call__(self, layers: Sequence[int], ratios: Sequence[float]) -> float:
        grouping = self._grouping(layers)
        if grouping.padding > self.most:
            return math.inf
        kept = list(itertools.accumulate((1.0 - ratio for ratio in ratios), lambda a, b: a * b))
        shares, beside = [1.0, *kept], TEXT_TOKENS + self.block_size / 2
        padding = sum(
            group.padding * (shares[group.segment] + beside / self.tokens)
            for group in grouping.groups
        )
        return padding + GROUP * len(grouping.groups)

    def _grouping(self, layers: Sequence[int]) -> Grouping:
        cuts = [0, *layers, self.num_layers]
        return group_layers([range(first, end) for first, end in itertools.pairwise(cuts)])
