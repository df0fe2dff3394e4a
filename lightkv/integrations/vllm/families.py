"""The model families that lightkv compresses inside vLLM, and what differs between them there.

Geometry of pictures is not among it: `pictures.py` takes that from the adapters, by the name that
stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkv.core.errors import ModelError

CLIP_RENAMES = {r"^(model\.)?vision_tower\.(?!vision_model\.)": "vision_tower.vision_model."}
"""Regular expression → name. Checkpoints that transformers 5 saves leave a part out that vLLM wants."""


DECODERS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
)
"""Decoders of one shape: a layer takes positions, hidden states and residual, and gives the last two;
its attention is `self_attn.attn`, and `norm` follows the last layer."""


@dataclass(frozen=True)
class ServedFamily:
    """One family, as vLLM serves it.

    Attributes:
        name: of the adapter that serves the same family in transformers.
        model_type: of its config in transformers.
        architecture: what its checkpoints name, and vLLM's own class is registered under.
        model: name that our class has (`models.py`), and is registered under.
        geometry: modality → how the grid of such a picture is found (`pictures.GEOMETRIES`).
        decoder: path from vLLM's model to the module with `layers`.
        deep_layers: field of the vision config that lists features added behind the first decoder
            layers; nothing is compressed before the last of them.
    """

    name: str
    model_type: str
    architecture: str
    model: str
    geometry: Mapping[str, str]
    decoder: str = "language_model.model"
    deep_layers: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Kinds of pictures whose grids are known; others are refused."""
        return tuple(self.geometry)

    def min_layer(self, config: Any) -> int:
        """The smallest number of decoder layers behind which a stage may stand, besides none."""
        if self.deep_layers is None:
            return 0
        return len(getattr(config.vision_config, self.deep_layers))


_GRIDS = {"image": "grid", "video": "grid"}
FAMILIES = (
    ServedFamily(
        "llava",
        "llava",
        "LlavaForConditionalGeneration",
        "LightKVLlava",
        {"image": "square"},
    ),
    ServedFamily(
        "llava_next",
        "llava_next",
        "LlavaNextForConditionalGeneration",
        "LightKVLlavaNext",
        {"image": "any_resolution"},
    ),
    ServedFamily(
        "qwen_vl", "qwen2_vl", "Qwen2VLForConditionalGeneration", "LightKVQwen2VL", _GRIDS
    ),
    ServedFamily(
        "qwen_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "LightKVQwen25VL", _GRIDS
    ),
    ServedFamily(
        "qwen3_vl",
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        "LightKVQwen3VL",
        _GRIDS,
        deep_layers="deepstack_visual_indexes",
    ),
    ServedFamily(
        "internvl",
        "internvl",
        "InternVLForConditionalGeneration",
        "LightKVInternVL",
        {"image": "tiles"},
    ),
)


def family_of(config: Any) -> ServedFamily:
    """The family of a config of transformers.

    Raises:
        ModelError: none is mapped, or the model has no pictures, or a tower whose grids are unknown, or
            a decoder of another shape.
    """
    kind = getattr(config, "model_type", None)
    for family in FAMILIES:
        if family.model_type == kind:
            _refuse_pixtral(config)
            _refuse_decoder(config)
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    what = (
        "no family that lightkv compresses in vLLM"
        if hasattr(config, "vision_config")
        else "no vision-language model, so there are no vision tokens to compress"
    )
    raise ModelError(
        f"{(getattr(config, 'architectures', None) or [kind])[0]} is {what}",
        field="model",
        value=kind,
        remedy=f"serve one of {known}, or leave 'lightkv' out of additional_config",
    )


def _refuse_pixtral(config: Any) -> None:
    tower = getattr(config.vision_config, "model_type", None)
    if tower == "pixtral":
        raise ModelError(
            "LLaVA with a Pixtral tower has images of variable size, which are not mapped in vLLM",
            field="model.config.vision_config",
            value=tower,
            remedy="serve a checkpoint with a CLIP or SigLIP tower",
        )


def _refuse_decoder(config: Any) -> None:
    decoder = getattr(getattr(config, "text_config", None), "model_type", None)
    if decoder not in DECODERS:
        raise ModelError(
            "the decoder's layers are called otherwise than lightkv knows in vLLM",
            field="model.config.text_config",
            value=decoder,
            remedy=f"serve a checkpoint with one of {', '.join(DECODERS)}, or run it with "
            "transformers and lightkv.compress",
        )
