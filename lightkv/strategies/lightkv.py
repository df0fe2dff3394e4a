"""LightKV: merge redundant vision tokens during prefill, weighted by prompt attention.

Chen, Guo, Zimmermann, "LightKV" (TMLR 2026, arXiv 2605.00789). Vision tokens of each window are
split alternately into sources and destinations; the sources that diverge least from their nearest
destination are merged into it, weighted by the attention between prompt and vision; a few layers
later again, with larger windows.

This is the version in true geometry: windows of the real grid, nested over the stages, causal stage
layers, `after_layer` as in the paper. `lightkv-release` has the released module's quirks.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="lightkv",
    source="Chen, Guo, Zimmermann, TMLR 2026, arXiv 2605.00789",
    partitioner="windows",
    scorer="prompt-attention",
    matcher="bipartite",
    aggregator="weighted-mean",
    positions="keep",
    schedule=Recipe(windows=(4, 2, 1), ratio=0.5),
)
