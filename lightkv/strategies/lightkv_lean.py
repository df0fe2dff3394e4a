"""LightKV for few tokens: centres that are far apart, merged from the first layer to two thirds.

What LightKV is made of stays: windows, merging by the divergence of features, weights by the attention
of the prompt, a few stages. Changed is what its ablations and the study of both bundled models
(docs/evidence.md) found to lose most:

* A window keeps a farthest-first choice of its tokens (DivPrune's), and every other token merges into
  the kept one that it is most like. Unlike tokens are not made one as long as there are like ones, which
  pairing even with odd places cannot promise, and a stage may remove any share.
* The first stage stands before the decoder, so that every layer saves. Four more stages follow up to two
  thirds of the depth. They merge over frames too, weighted by the prompt's attention.
* For less retention the first stage keeps less, and the later ones keep the same shares as before.

Windows hold at most 128 tokens, however large a picture is: what choosing costs grows linearly.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

WINDOWS = {"name": "windows", "population": 128, "clamp": True}

PRESET = PipelineSpec(
    name="lightkv-lean",
    source="this project, after LightKV (arXiv 2605.00789) and DivPrune (arXiv 2503.02175)",
    partitioner={**WINDOWS, "frames": 8},
    scorer="causal-attention",
    matcher={"name": "farthest-first", "join": True},
    aggregator="weighted-mean",
    positions="keep",
    schedule=Recipe(
        retention=0.35,
        windows=(None,),
        depths=(0.0, 0.17, 0.33, 0.5, 0.67),
        ratios=(0.5, 0.3, 0.3, 0.4, 0.5),
        solve="first",
        # Before the decoder there is no attention, and a frame is compared with itself.
        overrides=({"partitioner": {**WINDOWS, "frames": 1}, "scorer": "uniform"}, {}),
    ),
)
