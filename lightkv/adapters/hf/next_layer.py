"""The attention row that the last token would have in the layer behind a stage.

PyramidDrop ranks by the layer that comes *after* its stage, on the stage's uncompressed input. That
layer's own norm, projections, rotary function and cached keys are used; one query row is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any, NoReturn

import torch
from torch import nn

from lightkv.adapters.hf.contact import (
    GATED_QUERIES,
    INPUT_NORM,
    needs_positions,
    rotary_function,
    turns_queries,
)
from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.forward import ForwardPass
from lightkv.adapters.hf.masks import LayerMasks, cached_keys
from lightkv.core.attention import AttentionView, Block
from lightkv.core.errors import ConfigError, ModelError
from lightkv.core.heads import HeadGroup
from lightkv.core.needs import Need, Source, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.prompt import PromptIndex


class NextLayerView(AttentionView):
    """The last token's attention row, all that is computed of the next layer.

    Args:
        query: `[B, H, 1, d]` of the last position.
        key: `[B, Hₖᵥ, K, d]`, K ≥ N; the last N are this pass's tokens.
        allowed: `[B, K]` what the last position attends to.
        length: N.
        scaling, softcap: of the logits.
        heads: the processes that share the heads, this one alone by default.
    """

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        allowed: torch.Tensor,
        length: int,
        prompt: PromptIndex,
        *,
        scaling: float,
        softcap: float | None = None,
        heads: HeadGroup | None = None,
    ) -> None:
        self.prompt = prompt
        self.heads = heads or HeadGroup()
        self._query, self._key, self._allowed = query, key, allowed
        self._length, self._scaling, self._softcap = length, scaling, softcap

    def last_row(self) -> torch.Tensor:
        batch, groups, count, width = self._key.shape
        query = (self._query[:, :, 0] * self._scaling).reshape(batch, groups, -1, width)
        logits = torch.matmul(query, self._key.transpose(-1, -2)).float()
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        lowest = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~self._allowed[:, None, None], lowest)
        return logits.softmax(-1).reshape(batch, -1, count)[..., -self._length :]

    def keys(self) -> torch.Tensor:
        return self._key[:, :, -self._length :]

    def prompt_logits(self) -> Iterator[Block]:
        _refuse("prompt_logits")

    def key_lse(self, heads: slice) -> torch.Tensor:
        _refuse("key_lse")

    def prompt_rows(self) -> Iterator[Block]:
        _refuse("prompt_rows")

    def column_sums(self) -> torch.Tensor:
        _refuse("column_sums")


def _refuse(name: str) -> NoReturn:
    raise ConfigError(
        f"of the layer after a stage only the last token's row is computed, not {name!r}",
        field="scorer",
        remedy="read `last_row`, or require quantities of the layer before the stage only",
    )


def check_next_layer(adapter: Family, model: nn.Module, pipeline: Pipeline) -> None:
    """Refuse pipelines that read the next layer's attention where it has another shape.

    Raises:
        ModelError: layers that pack their projections, or do more to queries and keys than rotate them.
    """
    layers = adapter.layers(model)
    for after, placed in pipeline.between.items():
        if not needs_from(placed.needs, Source.NEXT_LAYER):
            continue
        attention, layer = adapter.attention(layers[after]), layers[after]
        shaped = all(hasattr(attention, n) for n in ("q_proj", "k_proj", "head_dim", "scaling"))
        known = shaped and _query_width(attention) is not None and not _does_more(attention)
        if not (known and hasattr(layer, INPUT_NORM) and rotary_function(attention)):
            raise ModelError(
                f"the attention of {adapter.name} makes queries and keys in another way than by q_proj, "
                f"k_proj and rotation, so {str(Need.NEXT_LAST_ROW)!r} cannot be computed",
                field=f"schedule[{placed.number}]",
                value=type(attention).__name__,
                remedy="use a scorer of the layer before the stage, such as 'last-token'",
            )


def next_layer_view(
    forward: ForwardPass,
    masks: LayerMasks,
    index: int,
    layer: nn.Module,
    attention: nn.Module,
    hidden: torch.Tensor,
    embeddings: tuple[torch.Tensor, torch.Tensor] | None,
    mask: torch.Tensor | None,
    prompt: PromptIndex,
    *,
    drafts: int = 0,
    heads: HeadGroup | None = None,
) -> NextLayerView:
    """What layer `index` would compute on `[B, N, D]`, the input of the stage before it.

    Args:
        forward: the pass, whose record does not hold this layer's new entries yet.
        masks: of the decoder's layers.
        embeddings: rotary (cos, sin) of these N positions for this layer, None if it has none.
        mask: the layer's uncompressed mask, looked at where the cache is empty.
        prompt: prompt positions.
        drafts: positions at the end that are guesses (assisted decoding); the last token is the one
            before them.
        heads: the processes that share the heads.
    """
    last = hidden.shape[1] - 1 - drafts
    if drafts:
        prompt = prompt.without_last(drafts)
    block: Any = layer
    own: Any = attention
    with torch.no_grad():
        normed = getattr(block, INPUT_NORM)(hidden)
        key = _projected(own, "k", normed)
        query = _projected(own, "q", normed[:, last : last + 1])
        if embeddings is not None and turns_queries(attention):
            cos, sin = embeddings
            key = _rotated(attention, key, cos, sin)
            query = _rotated(attention, query, cos[:, last : last + 1], sin[:, last : last + 1])
        past = cached_keys(forward, index)
        if past:
            held = forward.cache.layers[index].keys[:, :, -past:]
            key = torch.cat([held.to(key.dtype), key], dim=2)
        allowed = masks.last_row(forward, index, mask, prompt, drafts)
    softcap = getattr(own, "attn_logit_softcapping", None)
    return NextLayerView(
        query,
        key,
        allowed,
        hidden.shape[1],
        prompt,
        scaling=own.scaling,
        softcap=softcap,
        heads=heads,
    )


def _query_width(attention: Any) -> int | None:
    """What `q_proj` gives for each head; None where that is neither a query nor one with its gate."""
    times = 2 if type(attention).__name__ in GATED_QUERIES else 1
    groups = getattr(attention, "num_key_value_groups", None)
    wide, narrow = (getattr(p, "out_features", None) for p in (attention.q_proj, attention.k_proj))
    if groups and wide and narrow and wide != times * narrow * groups:
        return None
    return times * int(attention.head_dim)


def _does_more(attention: nn.Module) -> bool:
    """Whether queries or keys go through more than is computed here: other norms, a scale by place."""
    norms = {name for name, _ in attention.named_children() if "norm" in name}
    return bool(norms - {"q_norm", "k_norm", "v_norm"}) or needs_positions(attention)


def _rotated(
    attention: nn.Module, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """`[B, heads, n, d]` turned by the tables `[B or 1, n, d]` of their places."""
    rotate: Any = rotary_function(attention)
    if len([p for p in signature(rotate).parameters.values() if p.default is p.empty]) == 3:
        return rotate(states, cos, sin)  # type: ignore[no-any-return]  # one tensor at a time (Gemma 4)
    return rotate(states, states, cos, sin)[0]  # type: ignore[no-any-return]


def _projected(attention: Any, which: str, hidden: torch.Tensor) -> torch.Tensor:
    """`[B, n, D]` → `[B, heads, n, d]`, normalised where the attention does that."""
    states: torch.Tensor = getattr(attention, f"{which}_proj")(hidden)
    width = _query_width(attention) if which == "q" else None
    heads = states.view(*states.shape[:-1], -1, width or attention.head_dim)
    heads = heads[..., : attention.head_dim]
    norm = getattr(attention, f"{which}_norm", None)
    if norm is not None:
        heads = norm(heads)
    return heads.transpose(1, 2)
