"""The vision encoder of a model, as a family offers it to methods that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

CLASS_TOKENS = ("class_embedding", "cls_token")
"""What transformers calls the parameter of a class token."""


@dataclass(frozen=True)
class Encoder:
    """A vision encoder, as an adapter offers it.

    Attributes:
        layers: modality → attention modules of the encoder's layers, with `q_proj`, `k_proj`,
            `num_heads` and `scale`.
        projector: the module whose first argument are the features, patch by patch.
        leading: class tokens before the patches, 0 or 1.
    """

    layers: Mapping[str, Sequence[nn.Module]]
    projector: nn.Module
    leading: int = 1

    @property
    def depth(self) -> int:
        return min(len(layers) for layers in self.layers.values())


def clip_encoder(projector: nn.Module, **towers: nn.Module) -> Encoder | None:
    """The encoder behind towers of the CLIP or SigLIP shape, one for each modality."""
    layers: dict[str, list[nn.Module]] = {}
    for modality, tower in towers.items():
        inner: Any = getattr(tower, "vision_model", tower)
        stack = getattr(getattr(inner, "encoder", None), "layers", None)
        if stack is None or not all(hasattr(layer.self_attn, "q_proj") for layer in stack):
            return None
        layers[modality] = [layer.self_attn for layer in stack]
    has_class = all(has_class_token(tower) for tower in towers.values())
    return Encoder(layers, projector, leading=1 if has_class else 0)


def has_class_token(module: nn.Module) -> bool:
    """Whether a module holds the parameter of a class token."""
    return any(name.rpartition(".")[2] in CLASS_TOKENS for name, _ in module.named_parameters())


def patches_per_side(vision: Any) -> int:
    """Patches along a side of the square image that a tower of this config takes."""
    return int(vision.image_size // vision.patch_size)
