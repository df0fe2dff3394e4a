"""Reading query and key inside a layer's own attention call.

For the duration of one layer's forward pass the attention module gets a shallow copy of its config
that names a function registered once with transformers. The function lets the engine read, then
calls the implementation that the model really uses, with the module's own config in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.attention_tap import AttentionReader, AttentionTap, Own
from lightkv.adapters.hf.forward import ForwardPass, Kwargs
from lightkv.adapters.hf.masks import LayerMasks
from lightkv.core.attention import QueryKeyView
from lightkv.core.heads import HeadGroup
from lightkv.core.needs import Source, needs_from
from lightkv.core.prompt import prompt_index

NAME = "lightkv_tap"


class InterfaceTap(AttentionTap):
    """The tap of a module that calls its attention through the interface of transformers."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        self._config: Any = None
        self._reader: AttentionReader | None = None

    def run_read(
        self, reader: AttentionReader, own: Own, args: tuple[Any, ...], kwargs: Kwargs
    ) -> Any:
        config: Any = contact.read(self._attention, "config", "the attention module")
        tapped = contact.config_with(config, NAME)
        tapped._lightkv_tap = self
        self._config, self._reader = config, reader
        try:
            self._attention.config = tapped
            return own(*args, **kwargs)
        finally:
            self._attention.config = self._config
            self._config = self._reader = None

    def call(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> Any:
        """Lets read, then runs the model's own attention."""
        own, reader = self._config, self._reader
        self._attention.config, self._reader, self.unread = own, None, False
        scaling = kwargs.get("scaling")
        if reader is not None:
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            reader(query, key, scaling, {**kwargs, "attention_mask": mask})
        run = contact.attention_function(module, contact.attention_implementation(own) or "eager")
        return run(module, query, key, value, mask, **kwargs)


def _tapped_attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    tap: InterfaceTap = module.config._lightkv_tap  # type: ignore[union-attr,assignment]
    return tap.call(module, *args, **kwargs)


contact.register_attention(NAME, _tapped_attention)


def attention_reader(
    forward: ForwardPass, masks: LayerMasks, index: int, *, drafts: int, heads: HeadGroup
) -> AttentionReader | None:
    """What shows the attention call of layer `index` to the stages that read it, None if none does.

    Args:
        forward: the pass, a prefill.
        masks: of the decoder's layers.
        index: of the layer.
        drafts: positions at the end that are guesses (assisted decoding).
        heads: the processes that share the heads.
    """
    prefill = forward.prefill
    assert prefill is not None
    between = bool(needs_from(prefill.needs(index + 1), Source.ATTENTION))
    on_cache = forward.cache is not None and bool(prefill.cache_needs())
    if not between and not on_cache:
        return None

    def reader(query: torch.Tensor, key: torch.Tensor, scaling: float, extra: Kwargs) -> None:
        # The device that the layer runs on: accelerate moves its arguments after our hook.
        device = query.device
        view = QueryKeyView(
            query,
            key,
            scaling,
            prompt_index(prefill.layout, device),
            cached_valid=masks.cached_valid(forward, index, device),
            softcap=extra.get("softcap"),
            mask=masks.beyond_causal(extra.get("attention_mask")),
            heads=heads,
            drafts=drafts,
            weights=masks.key_weights(forward, index, device),
        )
        if between:
            prefill.read_attention(index + 1, view)
        if on_cache:
            prefill.read_cache_attention(index, view)

    return reader
