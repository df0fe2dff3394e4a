"""DyCoke: of every four frames one stays whole, the others keep what changed.

Tao et al., "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models" (CVPR 2025,
arXiv 2411.15024); KD-TAO/DyCoke. Frames are taken four at a time. Frames 1 and 3 are compared with
0 and 2, then 2 with 0, place by place; of each compared frame the share 1 − K of lowest cosine
stays (K = 0.7), the rest goes. Called merging, it drops in paper and code. At K = 0.7 (1 + 3 ·
0.3)/4 = 0.475 stays.

Kept: the comparisons, and equal shares of the frames. Here the budget leads: frame 0 of each group
is whole as far as it goes, and the other frames share the rest evenly. In the code the third frame
of an unfinished last group stays whole, and a clip of fewer than four frames fails; here they are
frames like others. A still picture is a reference of its own: the tokens that differ most from its
mean direction stay. Not kept: the second half, which chooses anew at each generated token what of
the cache is attended to. The code renumbers positions, as pruning before a decoder with one
position for each token does by itself; here they are kept, because on models with positions in time
and space that is the time of a frame.
"""

from __future__ import annotations

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe

PRESET = PipelineSpec(
    name="dycoke",
    source="Tao et al., CVPR 2025, arXiv 2411.15024",
    partitioner="whole",
    scorer={"name": "frame-change", "group": 4},
    matcher={"name": "frame-shares", "group": 4},
    aggregator="drop",
    positions="keep",
    schedule=Recipe(retention=0.475, after_layer=0, windows=(None,)),
)
