"""Models that `lightkv plan` knows by name: sizes of their decoders and of their usual input."""

from __future__ import annotations

from dataclasses import dataclass

from lightkv.core.counting import ViewSize
from lightkv.core.flops import DecoderShape

TEXT_TOKENS = 75
"""Text tokens of a prompt by default: about 35 of LLaVA's system prompt and roles, 40 of a question.

The published tables do not say how many they count. With 75 the published FLOPs of LLaVA-v1.5-13B
are met within 2 % and those of LLaVA-NeXT-13B within 4 %, vanilla and compressed alike.
"""

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
# One picture of 336 x 336 pixels in patches of 14.
_BASE = ViewSize((1, 24, 24))
# A picture of 3:2 on the 2 x 2 tiles of LLaVA-NeXT, padding cut off: 32 rows of 48 patches, each
# followed by a newline token. With the base view 576 + 1,568 = 2,144 tokens, as published.
_ANY_RESOLUTION = ViewSize((1, 32, 48), newline=True)


@dataclass(frozen=True)
class Description:
    """A model without weights.

    Attributes:
        name: how the command line calls it, or the path it was read from.
        shape: of its decoder.
        views: of its usual input, one image; empty if that is not known.
        min_layer: layers that must run before the first stage.
    """

    name: str
    shape: DecoderShape
    views: tuple[ViewSize, ...] = ()
    min_layer: int = 0


DESCRIPTIONS = {
    made.name: made
    for made in (
        Description("llava-v1.5-7b", _VICUNA_7B, (_BASE,)),
        Description("llava-v1.5-13b", _VICUNA_13B, (_BASE,)),
        Description("llava-next-7b", _VICUNA_7B, (_BASE, _ANY_RESOLUTION)),
        Description("llava-next-13b", _VICUNA_13B, (_BASE, _ANY_RESOLUTION)),
    )
}
