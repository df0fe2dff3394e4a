"""Rand and ImgRand: random eviction from the cache, per layer, after each layer's prefill.

Baselines of Chen, Guo, Zimmermann, "LightKV" (TMLR 2026, arXiv 2605.00789): Rand evicts entries of text
and vision, ImgRand of vision only. Their code is not public, and seed, layers and protected entries
are not specified. Chosen here: every layer draws on its own, all heads of a layer alike; Rand always
keeps the last max(1, ⌊0.1·b·L⌋) of L entries, b the share that is kept, as the random baseline of
EffiVLM-Bench (EffiVLM-Bench/EffiVLM-Bench, `kv_cache_compression`) does.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import ScoreInput
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.transfer import to_device
from lightkv.strategies.random import Noise


class RecentNoise(Noise):
    """As `noise`, but the last max(1, ⌊recent·b·L⌋) of a sample's L tokens rank before all others.

    b = 1 − ρ is the share that is kept, so the last tokens count towards the budget.

    Attributes:
        recent: share of the budget that goes to the last tokens.
    """

    name = "noise-recent"
    source = "EffiVLM-Bench/EffiVLM-Bench, random eviction"
    recent: float = Field(default=0.1, ge=0.0, le=1.0)

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        noise = super().score(inputs)
        budget = 1.0 - inputs.context.ratio
        first = [n - max(1, int(self.recent * budget * n + 1e-9)) for n in inputs.counts]
        starts = to_device(first, noise.device)
        return noise + (inputs.rank >= starts.index_select(0, inputs.sample)).float()


RAND = PipelineSpec(
    name="rand",
    source="baseline Rand of arXiv 2605.00789; protection as in EffiVLM-Bench",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="noise-recent",
    matcher={"name": "top-k", "rounding": "floor"},
    aggregator="drop",
    positions="keep",
    schedule=Recipe(site="cache", scope="all", windows=(None,)),
)
IMGRAND = RAND.model_copy(
    update={
        "name": "imgrand",
        "source": "baseline ImgRand of arXiv 2605.00789",
        "scorer": "noise",
        "schedule": Recipe(site="cache", windows=(None,)),
    }
)

PRESETS = (RAND, IMGRAND)
