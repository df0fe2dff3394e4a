"""EVS: keep what changed since the frame before, and the first frame.

Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM
Inference" (arXiv 2510.14624); in vLLM, SGLang and TensorRT-LLM. The dissimilarity of a token is 1 −
cosine to the token at the same place one frame earlier, of the projected embeddings (the paper
takes L1 distances of pixels, the engines cosines, which is done here). The ⌊N(1 − q)⌋ tokens of
largest dissimilarity over the whole clip stay, wherever they are, and keep their positions.

The engines keep all tokens of the first frame and raise the budget if that is larger. Here the
budget holds: if it is smaller than the first frame, the tokens of that which differ most from their
frame's mean direction stay. So a still picture, whose only frame is the first, is ranked by that
contrast. The training with random rates, the second half of the paper, changes the model and is no
part of this.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="evs",
    source="Bagrov et al., 2025, arXiv 2510.14624",
    partitioner="whole",
    scorer="frame-change",
    matcher={"name": "top-k", "rounding": "floor"},
    aggregator="drop",
    positions="keep",
    # q = 0.7, NVIDIA's setting for its own model.
    schedule=Recipe(retention=0.3, after_layer=0, windows=(None,)),
)
