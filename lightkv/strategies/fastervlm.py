"""FasterVLM: keep the patches that the encoder's class token attends to.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning" (arXiv
2412.01818v1); Theia-4869/FasterVLM. Score: attention of the class token in the encoder layer whose
output the projector gets (index −2), mean over heads. The top T stay, in raster order. Dropping after
the projector equals the code's dropping before it, because the projector works token by token.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="fastervlm",
    source="Zhang et al., arXiv 2412.01818v1",
    partitioner="whole",
    scorer="class-attention",
    matcher={"name": "top-k", "rounding": "round"},
    aggregator="drop",
    positions="renumber-contiguous",
    # 128 of 576 tokens, the first of the usual settings.
    schedule=Recipe(retention=128 / 576, after_layer=0, windows=(None,)),
)
