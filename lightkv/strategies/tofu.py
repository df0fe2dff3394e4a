"""ToFu: prune matched tokens in early stages, merge them with their norm preserved in late ones.

Kim et al., "Token Fusion: Bridging the Gap between Token Pruning and Token Merging" (WACV 2024,
arXiv 2312.01026). No official code is public; the common implementation is hchautran/PiToMe,
`algo/tofu`. Matching is ToMe's. Early: the matched source goes, the destination stays as it is. Late:
MLERP, the mean of a group stretched to the largest norm in the group.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.contracts import Aggregator, Merged, MergeInput, StageContext
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.aggregators import Drop, slot_numbers, slot_shares, weighted_sum
from lightkv.strategies.components.magnitude import length, unit
from lightkv.strategies.components.selection import rows


class Fusion(Aggregator):
    """x_s ← (m/‖m‖) · max ‖x_k‖ over the group of slot s, m its plain mean, or pruning.

    A survivor that nobody joined is unchanged bit for bit. Not a convex combination: the norm is
    rescaled.

    Attributes:
        mode: `prune` (survivors stay as they are), `merge` (MLERP), or `depth`: prune in stages
            after at most `switch` of the model's layers, merge in later ones (and outside a model).
        switch: share of the depth up to which `depth` prunes.
        divisor: what the mean is divided by: the norm of the `mean` (paper), or the old norm of
            the `destination` (common code; the result's norm is then not the maximum).
    """

    name = "fusion"
    source = "ToFu, arXiv 2312.01026, MLERP merging"
    convex = False
    mode: Literal["depth", "prune", "merge"] = "depth"
    switch: float = Field(default=0.5, ge=0.0, le=1.0)
    divisor: Literal["mean", "destination"] = "mean"

    def merge(self, inputs: MergeInput) -> Merged:
        # A matcher may leave nothing of a window of one token.
        if self.prunes(inputs.context) or not inputs.survivors.shape[1]:
            return Drop().merge(inputs)
        share = slot_shares(inputs, torch.ones_like(inputs.size))
        mean = weighted_sum(inputs, share).float()
        norm = length(inputs.tokens)
        # A dropped token counts in no slot.
        heard = torch.where(inputs.target >= 0, norm, 0.0)
        slot = slot_numbers(inputs)
        largest = torch.zeros_like(mean[..., 0]).scatter_reduce(1, slot, heard, "amax")
        old = norm.gather(1, inputs.survivors)
        if self.divisor == "mean":
            stretched = unit(mean) * largest.unsqueeze(-1)
        else:
            stretched = mean * torch.where(old > 0, largest / old, 1.0).unsqueeze(-1)
        alone = share.gather(1, inputs.survivors).unsqueeze(-1) == 1
        kept = rows(inputs.tokens, inputs.survivors)
        # A norm may be larger than any number that half precision holds.
        most = torch.finfo(kept.dtype).max
        stretched = stretched.clamp(-most, most).to(kept.dtype)
        return Merged(torch.where(alone, kept, stretched), share)

    def prunes(self, context: StageContext) -> bool:
        """Whether a stage prunes."""
        if self.mode != "depth" or not context.num_layers:
            return self.mode == "prune"
        return context.after_layer <= int(self.switch * context.num_layers)


PRESET = PipelineSpec(
    name="tofu",
    source="Kim et al., WACV 2024, arXiv 2312.01026",
    partitioner="whole",
    matcher="bipartite",
    aggregator="fusion",
    positions="keep",
    schedule=Recipe(windows=(None, None, None), ratio=0.5),
)
