"""What one prompt saves in an engine: vision tokens, and blocks of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from lightkv.integrations.vllm.blocks import segments_of
from lightkv.integrations.vllm.groups import Grouping, group_layers
from lightkv.integrations.vllm.plan import Entry, ServingPlan


@dataclass(frozen=True)
class PromptSavings:
    """One prompt, after its prefill.

    Attributes:
        vision: vision tokens of the prompt.
        kept: of them, the mean over the decoder's layers of what is cached.
        blocks: that it takes, of all groups.
        uncompressed: blocks of the same bytes that it would take if all layers were one group that
            holds every token; a fraction where a block's layers do not divide the decoder's.
    """

    vision: int
    kept: float
    blocks: int
    uncompressed: float


class Savings:
    """Counts for one plan.

    Args:
        plan: of the engine.
    """

    def __init__(self, plan: ServingPlan) -> None:
        self._layers = plan.layers
        segments = segments_of(plan.pipeline)
        self.grouping: Grouping = group_layers(segments)
        # A stage before the first layer leaves the plan a first segment without layers.
        self._segments = [
            plan.segment(segments[group.segment][0]) for group in self.grouping.groups
        ]

    def of(self, entry: Entry, block_size: int) -> PromptSavings:
        """A prompt with pictures, in blocks of `block_size` tokens."""
        depth = sum(self._layers)
        removed = sum(
            gone * layers for gone, layers in zip(entry.removed, self._layers, strict=True)
        )
        held = [entry.prompt - entry.removed[segment] for segment in self._segments]
        return PromptSavings(
            entry.vision,
            entry.vision - removed / depth,
            sum(-(-tokens // block_size) for tokens in held),
            -(-entry.prompt // block_size) * depth / self.grouping.size,
        )
