"""FastV: drop the vision tokens that the last token ignores, once, after layer K = 2.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024, arXiv 2403.06764). Score: the
last token's attention row in the layer before the stage, mean over heads. Keep round(N·(1 − R)) of
all vision tokens of the sample, positions kept. The paper averages over all rows; every released
code uses the last row, and so does this preset.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="fastv",
    source="Chen et al., ECCV 2024, arXiv 2403.06764",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="last-token",
    matcher={"name": "top-k", "rounding": "round"},
    aggregator="drop",
    positions="keep",
    schedule=Recipe(windows=(None,), after_layer=2),
)
