"""What a component may ask for, and where it comes from.

A component names its needs in `requires`, or returns them from `needs()` where a parameter decides:

    requires = frozenset({Need.LAST_ROW})
    requires = frozenset({Need.VISION_CLS.at(-2)})

It is then given exactly that, through the hook that is named after the source: `read_attention`,
`read_encoder`, `read_embeddings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lightkv.core.errors import ConfigError, nearest


class Source(Enum):
    """Where a need is met."""

    ATTENTION = "attention"
    """The attention call of the layer before the stage; read in `read_attention`."""
    NEXT_LAYER = "next layer"
    """The layer after the stage, on the stage's input; read in `read_attention`."""
    ENCODER = "encoder"
    """The vision encoder; read in `read_encoder`."""
    EMBEDDINGS = "embeddings"
    """What enters the decoder; read in `read_embeddings`."""


class Need(Enum):
    """What a component may ask for.

    Attributes:
        source: where it comes from.
        of_layer: whether an encoder layer must be named, with `at`.
    """

    source: Source
    of_layer: bool

    def __new__(cls, label: str, source: Source, of_layer: bool = False) -> Need:
        need = object.__new__(cls)
        need._value_, need.source, need.of_layer = label, source, of_layer
        return need

    PROMPT_LOGITS = "prompt_logits", Source.ATTENTION
    """`[B, H, N, P]` scaled logits before the mask: all tokens as queries, prompt tokens as keys."""
    KEY_LSE = "key_lse", Source.ATTENTION
    """`[B, H, N]` log-sum-exp of the unmasked logits over all keys, for each query."""
    PROMPT_ROWS = "prompt_rows", Source.ATTENTION
    """`[B, H, P, N]` causal attention probabilities of the prompt tokens as queries."""
    LAST_ROW = "last_row", Source.ATTENTION
    """`[B, H, N]` causal attention probabilities of the last token as query."""
    KEYS = "keys", Source.ATTENTION
    """`[B, Hₖᵥ, N, d]` keys of the layer, after rotary embedding."""
    COLUMN_SUMS = "column_sums", Source.ATTENTION
    """`[B, H, N]` causal attention probability that each token receives, summed over all queries."""
    NEXT_LAST_ROW = "next_last_row", Source.NEXT_LAYER
    """`LAST_ROW` of the layer *after* the stage, from its weights and the stage's input."""
    VISION_CLS = "vision_cls", Source.ENCODER, True
    """`[V₀, H]` attention of the encoder's class token to each patch in a layer: `VISION_CLS.at(-2)`."""
    VISION_KEYS = "vision_keys", Source.ENCODER, True
    """`[V₀, H, d]` keys of an encoder layer: `VISION_KEYS.at(-1)`."""
    VISION_FEATURES = "vision_features", Source.ENCODER
    """`[V₀, Dᵥ]` what enters the projector, and the projector itself."""
    EMBEDDINGS = "embeddings", Source.EMBEDDINGS
    """`[B, N, D]` what enters the decoder, text and vision."""

    def at(self, layer: int | float) -> LayerNeed:
        """This need in an encoder layer, counted from 0, or negative from the end.

        A fraction between 0 and 1 is a share of the encoder's depth: 0.25 is layer 6 of 24.

        Raises:
            ConfigError: it is not a need of an encoder layer, or the fraction is no such share.
        """
        if not self.of_layer:
            raise ConfigError(
                f"{self!r} is not read in a layer of the encoder",
                field="needs",
                remedy=f"write {self!r} alone",
            )
        if isinstance(layer, float) and not 0.0 < layer < 1.0:
            raise ConfigError(
                "a layer that is no whole number is a share of the encoder's depth",
                field="layer",
                value=layer,
                remedy="use a share between 0 and 1, such as 0.25, or a whole number, such as -2",
            )
        return LayerNeed(self, layer)

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"Need.{self.name}"


@dataclass(frozen=True)
class LayerNeed:
    """A need in one layer of the vision encoder, as `Need.at` gives it."""

    need: Need
    layer: int | float

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return self.need.source

    def __str__(self) -> str:
        return f"{self.need}:{self.layer}"

    def __repr__(self) -> str:
        return f"{self.need!r}.at({self.layer})"


Needs = frozenset[Need | LayerNeed]
"""What a component, or a stage of several, asks for."""


def needs_from(needs: Needs, *sources: Source) -> Needs:
    """Those of `needs` that come from one of `sources`."""
    return frozenset(need for need in needs if need.source in sources)


def needs_class_token(needs: Needs) -> bool:
    """Whether needs can only be met by an encoder with a class token."""
    return any(isinstance(each, LayerNeed) and each.need is Need.VISION_CLS for each in needs)


def encoder_layers(needs: Needs) -> frozenset[int | float]:
    """The encoder layers that needs name, as they name them."""
    return frozenset(each.layer for each in needs if isinstance(each, LayerNeed))


def listed(needs: Iterable[Need | LayerNeed]) -> str:
    """Names of needs as errors print them."""
    return ", ".join(sorted(map(str, needs)))


def check_needs(needs: object, field: str) -> Needs:
    """What a component declares, if it is a set of needs.

    Raises:
        ConfigError: with `field`, naming what is no need.
    """
    if not isinstance(needs, set | frozenset):
        raise ConfigError(
            "needs are a set of members of `Need`",
            field=field,
            value=needs,
            remedy="such as frozenset({Need.LAST_ROW})",
        )
    for each in needs:
        if isinstance(each, Need) and each.of_layer:
            raise ConfigError(
                "the layer of the encoder is missing",
                field=field,
                value=each,
                remedy=f"such as {each!r}.at(-2)",
            )
        if not isinstance(each, Need | LayerNeed):
            raise ConfigError(
                "this is nothing that a component may need",
                field=field,
                value=each,
                remedy=f"{_meant(each)}There are: {', '.join(map(repr, Need))}, of lightkv.plugin",
            )
    return frozenset(needs)


def _meant(each: object) -> str:
    """What a string of an earlier version, or a slip, stood for."""
    name = str(each).partition(":")[0].upper()
    names = Need.__members__
    return f"Write {names[name]!r}. " if name in names else nearest(name, names)
