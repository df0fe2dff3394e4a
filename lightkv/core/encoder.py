"""What a component may know of the vision encoder: class-token attention, keys, features.

Methods that act before the decoder rank tokens by the attention that the encoder's class token pays
to each patch, or merge features before the projector. A component names what it needs with
`vision_cls(layer)`, `vision_keys(layer)` or `VISION_FEATURES`; the adapter records exactly that while
the encoder runs, and the component reads it in `look`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

VISION_FEATURES = "vision_features"
"""`[V₀, Dᵥ]` what enters the projector, and the projector itself."""
_CLS, _KEYS = "vision_cls", "vision_keys"


def vision_cls(layer: int) -> str:
    """Requirement: attention of the class token in encoder layer `layer` (negative from the end)."""
    return f"{_CLS}:{layer}"


def needs_class_token(needs: frozenset[str]) -> bool:
    """Whether requirements can only be met by an encoder with a class token."""
    return any(need.partition(":")[0] == _CLS for need in needs)


def vision_keys(layer: int) -> str:
    """Requirement: the keys of encoder layer `layer`."""
    return f"{_KEYS}:{layer}"


def is_vision(requirement: str) -> bool:
    """Whether a requirement is for the vision encoder to meet, not for the decoder's attention."""
    return requirement == VISION_FEATURES or requirement.partition(":")[0] in (_CLS, _KEYS)


def encoder_layers(needs: frozenset[str]) -> frozenset[int]:
    """The encoder layers that requirements name."""
    return frozenset(
        int(layer) for kind, _, layer in (n.partition(":") for n in needs) if kind in (_CLS, _KEYS)
    )


class VisionView(ABC):
    """The encoder's view of the original vision tokens of a batch, sample after sample.

    V₀ counts the tokens before any stage. Tokens that show no patch (newlines) have zeros.
    """

    @abstractmethod
    def cls_attention(self, layer: int, *, split: bool = True) -> torch.Tensor:
        """`[V₀, H]` attention probability of the class token to each patch, per head.

        Without `split` `[V₀, 1]`: one softmax over the full width, as if there were one head.

        Raises:
            ModelError: the encoder has no class token.
        """

    @abstractmethod
    def keys(self, layer: int) -> torch.Tensor:
        """`[V₀, H, d]` keys of the encoder layer, before any head mean."""

    @abstractmethod
    def cls_query(self, layer: int) -> torch.Tensor:
        """`[V₀, H, d]` the class token's query in that layer, repeated for each patch of its view."""

    @abstractmethod
    def features(self) -> torch.Tensor:
        """`[V₀, Dᵥ]` what the projector receives for each token."""

    @abstractmethod
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """`[…, Dᵥ]` → `[…, D]` with the model's own projector."""
