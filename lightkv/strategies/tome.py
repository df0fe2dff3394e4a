"""ToMe in prefill: merge the most similar tokens of an alternating split, weighted by size.

Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023, arXiv 2210.09461). A vision-transformer
method; its use between decoder layers is the ToMe(P) baseline of the LightKV paper: one window,
r = ⌊ρN⌋ ≤ ⌊N/2⌋, mean weighted by how many original tokens each one holds, survivors in raster order
because order decides who may see whom in a causal decoder. `matcher: {name: bipartite, metric: keys}`
takes keys (mean over heads) as in the original; hidden states are the default.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="tome",
    source="Bolya et al., ICLR 2023, arXiv 2210.09461",
    partitioner="whole",
    scorer=None,
    matcher="bipartite",
    aggregator={"name": "weighted-mean", "weights": "size"},
    positions="keep",
    schedule=Recipe(windows=(None, None, None), ratio=0.5),
)
