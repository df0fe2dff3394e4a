"""Importances read off the vision encoder, shared by the methods that act before the decoder."""

from __future__ import annotations

from typing import Literal

import torch

from lightkv.core.contracts import VisionScorer
from lightkv.core.encoder import VisionView
from lightkv.core.needs import Need, Needs


class ClassAttention(VisionScorer):
    """ξ_i = attention that the encoder's class token pays to patch i.

    Attributes:
        layer: encoder layer, counted from 0, negative from the end, or a share of the depth (0.25). −2
            is the layer whose output LLaVA's projector gets (index 22 of CLIP ViT-L's 24).
        heads: `mean` or `sum` over the heads' softmaxes (the same order of tokens), or `joint`: one
            softmax over the full width, without any heads (PruMerge).
    """

    name = "class-attention"
    source = "VisionZip, arXiv 2412.04467; HiRED, arXiv 2408.10945; PruMerge, arXiv 2403.15388"
    layer: int | float = -2
    heads: Literal["mean", "sum", "joint"] = "mean"

    def needs(self) -> Needs:
        return frozenset({Need.VISION_CLS.at(self.layer)})

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        attention = vision.cls_attention(self.layer, split=self.heads != "joint")
        return attention.sum(dim=1) if self.heads == "sum" else attention.mean(dim=1)
