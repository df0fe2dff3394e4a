"""ToMe on the cache: merge the entries with the most similar keys, after each layer's prefill.

Bolya et al., "Token Merging: Your ViT But Faster" (ICLR 2023, arXiv 2210.09461;
facebookresearch/ToMe), as the baseline ToMe(C) of the LightKV paper (arXiv 2605.00789), which leaves
open how. Chosen here: the metric is the mean over heads of the keys *as they lie in the cache*, after
the rotary embedding (keys before it are gone by then), so a merged key mixes rotations; one matching
for key and value, shared by the heads, separate in each layer; mean weighted by size. A round removes
at most half, so budgets below a half take several rounds, each on the merged keys of the one before.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="tome-cache",
    source="Bolya et al., ICLR 2023, arXiv 2210.09461; ToMe(C) of arXiv 2605.00789",
    partitioner="whole",
    scorer=None,
    matcher={"name": "bipartite", "metric": "keys"},
    aggregator={"name": "weighted-mean", "weights": "size"},
    positions="keep",
    schedule=Recipe(site="cache", windows=(None,)),
)
