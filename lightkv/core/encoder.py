"""What a component may know of the vision encoder: class-token attention, keys, features.

Methods that act before the decoder rank tokens by the attention that the encoder's class token pays
to each patch, or merge features before the projector. A component names what it needs
(`Need.VISION_CLS.at(layer)`, `Need.VISION_KEYS.at(layer)`, `Need.VISION_FEATURES`); the adapter records
exactly that while the encoder runs, and the component reads it in `read_encoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


def layer_number(layer: int | float, depth: int) -> int:
    """Number from 0 of a layer that is counted, from the end if negative, or a share of the depth."""
    if isinstance(layer, float):
        return int(layer * depth + 1e-9)
    return layer % depth


class VisionView(ABC):
    """The encoder's view of the original vision tokens of a batch, sample after sample.

    V₀ counts the tokens before any stage. Tokens that show no patch (newlines) have zeros. A layer
    is meant as `Need.at` says.
    """

    @abstractmethod
    def cls_attention(self, layer: int | float, *, split: bool = True) -> torch.Tensor:
        """`[V₀, H]` attention probability of the class token to each patch, per head.

        Without `split` `[V₀, 1]`: one softmax over the full width, as if there were one head.

        Raises:
            ModelError: the encoder has no class token.
        """

    @abstractmethod
    def keys(self, layer: int | float) -> torch.Tensor:
        """`[V₀, H, d]` keys of the encoder layer, before any head mean."""

    @abstractmethod
    def cls_query(self, layer: int | float) -> torch.Tensor:
        """`[V₀, H, d]` the class token's query in that layer, repeated for each patch of its view."""

    @abstractmethod
    def features(self) -> torch.Tensor:
        """`[V₀, Dᵥ]` what the projector receives for each token."""

    @abstractmethod
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """`[…, Dᵥ]` → `[…, D]` with the model's own projector."""
