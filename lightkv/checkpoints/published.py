"""Models that `lightkv plan` knows by name: sizes of their decoders and of their usual input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lightkv.core.cost.counting import ViewSize
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.pipeline.places import Places

TEXT_TOKENS = 75
"""Text tokens of a prompt by default: about 35 of LLaVA's system prompt and roles, 40 of a question.

The published tables do not say how many they count. With 75 the published FLOPs of LLaVA-v1.5-13B
are met within 2 % and those of LLaVA-NeXT-13B within 4 %, vanilla and compressed alike.
"""

# Vicuna 1.5, a Llama 2. The vocabulary is that of the converted checkpoints (32,000 and a few padded).
_VICUNA_7B = DecoderShape(
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    intermediate_size=11008,
    vocab_size=32064,
)
_VICUNA_13B = DecoderShape(
    num_layers=40,
    hidden_size=5120,
    num_heads=40,
    num_kv_heads=40,
    head_dim=128,
    intermediate_size=13824,
    vocab_size=32064,
)
# EVE's own config: Vicuna 7B with the vocabulary of Llama.
_EVE_7B = replace(_VICUNA_7B, vocab_size=32000)
# InternLM2.5-7B, which InternVL2-8B's `llm_config` describes: a Llama with grouped heads.
_INTERNLM2_8B = replace(_VICUNA_7B, num_kv_heads=8, intermediate_size=14336, vocab_size=92553)
# Qwen2.5-7B, the text config of Qwen2.5-VL-7B.
_QWEN_7B = DecoderShape(
    num_layers=28,
    hidden_size=3584,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=18944,
    vocab_size=152064,
)
# One picture of 336 x 336 pixels in patches of 14.
_BASE = ViewSize((1, 24, 24))
# A picture of 3:2 on the 2 x 2 tiles of LLaVA-NeXT, padding cut off: 32 rows of 48 patches, each
# followed by a newline token. With the base view 576 + 1,568 = 2,144 tokens, as published.
_ANY_RESOLUTION = ViewSize((1, 32, 48), newline=True)
# A picture of 3:2 in 2 x 3 tiles of 16 x 16 tokens, and the thumbnail: 7 x 256 = 1,792 tokens. Up to
# 12 tiles are allowed. The paper does not say how many it counts; six and the thumbnail are the
# number that the KV cache it publishes (0.24 GB) fits. Tiles are stitched here: how many tokens a
# window holds does not depend on the order in which they come.
_TILES = (ViewSize((1, 32, 48)), ViewSize((1, 16, 16)))
# A square picture whose longest side fills 672 (1,344) pixels, patches of 14 pooled 2 x 2, after a
# class token and with a split token after each row: 1 + 576 + 24 (1 + 2,304 + 48) tokens. That patches
# are pooled 2 x 2 is assumed; the factor is in no file of the model's repository.
_EVE = ViewSize((1, 24, 24), newline=True, leading=1)
_EVE_HD = ViewSize((1, 48, 48), newline=True, leading=1)
# The resolution follows the picture. 896 x 1,120 pixels in merged patches of 28 make 32 x 40 = 1,280
# tokens, the upper end that the model's authors advise for balanced cost.
_QWEN_INPUT = ViewSize((1, 32, 40))


@dataclass(frozen=True)
class Published:
    """An operating point that was published for a model.

    Attributes:
        layers: stages after so many decoder layers; each removes half.
        windows: per side, of each stage.
        source: where it stands.
    """

    layers: tuple[int, ...]
    windows: tuple[int, ...]
    source: str


_PAPER = "the paper's Λ for 40 layers"
_SCRIPT = "Λ of the release's script, read as the paper counts layers (the release acts one later)"


@dataclass(frozen=True)
class Description:
    """A model without weights.

    Attributes:
        name: how the command line calls it, or the path it was read from.
        shape: of its decoder.
        views: of its usual input, one image; empty if that is not known.
        places: where its decoder lets stages act.
        family: of a built-in model, transformers' `model_type` of a real class with these sizes.
        config: the config that was read, of a model that is not built in.
        published: its published operating point, if there is one.
        parameters: weights of the whole model, those that are shared counted once.
        counted: which of them, where it is not the whole model.
        served: the adapter that serves it and the model on the meta device, of one that is not built in.
    """

    name: str
    shape: DecoderShape
    views: tuple[ViewSize, ...] = ()
    places: Places = field(default_factory=Places)
    family: str = ""
    config: Any = None
    published: Published | None = None
    parameters: int = 0
    counted: str = ""
    served: Any = field(default=None, repr=False, compare=False)

    @property
    def min_layer(self) -> int:
        """Layers that must run before the first stage, as `places` says."""
        return self.places.first


def _built_in(
    name: str,
    family: str,
    shape: DecoderShape,
    views: tuple[ViewSize, ...],
    layers: tuple[int, ...] = (),
    windows: tuple[int, ...] = (),
    source: str = "",
) -> Description:
    published = Published(layers, windows, source) if layers else None
    return Description(
        name,
        shape,
        views,
        family=family,
        published=published,
        parameters=_PARAMETERS[name],
        counted="the decoder alone" if family == "llama" else "",
    )


# Of the class in transformers with the published config; a test builds each. EVE's patch embedding is
# code of its own, and left out.
_PARAMETERS = {
    "llava-v1.5-7b": 7_063_427_072,
    "llava-v1.5-13b": 13_351_494_656,
    "llava-next-7b": 7_063_431_168,
    "llava-next-13b": 13_351_499_776,
    "internvl2-8b": 8_075_291_648,
    "eve-7b": 6_738_415_616,
    "eve-7b-hd": 6_738_415_616,
    "qwen2.5-vl-7b": 8_292_166_656,
}
_HIGH = (_BASE, _ANY_RESOLUTION)
_OF_13B, _OF_7B, _OF_QWEN = (15, 23, 31), (12, 18, 24), (12, 17, 22)
DESCRIPTIONS = {
    made.name: made
    for made in (
        _built_in("llava-v1.5-7b", "llava", _VICUNA_7B, (_BASE,), _OF_7B, (4, 2, 1), _SCRIPT),
        _built_in("llava-v1.5-13b", "llava", _VICUNA_13B, (_BASE,), _OF_13B, (4, 2, 1), _PAPER),
        _built_in("llava-next-7b", "llava_next", _VICUNA_7B, _HIGH, _OF_7B, (6, 4, 2), _SCRIPT),
        _built_in("llava-next-13b", "llava_next", _VICUNA_13B, _HIGH, _OF_13B, (6, 4, 2), _PAPER),
        _built_in("internvl2-8b", "internvl", _INTERNLM2_8B, _TILES),
        _built_in("eve-7b", "llama", _EVE_7B, (_EVE,)),
        _built_in("eve-7b-hd", "llama", _EVE_7B, (_EVE_HD,)),
        _built_in(
            "qwen2.5-vl-7b", "qwen2_5_vl", _QWEN_7B, (_QWEN_INPUT,), _OF_QWEN, (6, 4, 2), _SCRIPT
        ),
    )
}
