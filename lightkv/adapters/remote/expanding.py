"""Decoders of transformers inside old code, whose outer forward puts pictures where sentinels stand.

The decoder is the installed one, so its layers are hooked as any other's. What differs is around it: the
ids and the pictures reach the outer forward only, rows grow before they reach the decoder, and the mask
and the positions of later passes are made for the wrong lengths or not at all.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.adapter import HFAdapter, refuse_other_heads
from lightkv.adapters.hf.attachment import HFAttachment
from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.inputs import ModelInputs, bind
from lightkv.adapters.hf.masks import continued_padding
from lightkv.core.layout import VisionLayout
from lightkv.core.run.adapter import Attachment
from lightkv.core.run.engine import Engine


class ExpandingAdapter(HFAdapter):
    """Answers for such code: found by the name of its class."""

    class_name: str

    def matches(self, model: nn.Module) -> bool:
        # The class comes from the checkpoint's own file, so there is nothing to import and compare.
        return any(kind.__name__ == self.class_name for kind in type(model).__mro__)

    def input_module(self, model: nn.Module) -> nn.Module:
        return self.decoder(model)

    @abstractmethod
    def with_pixels(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
        """Arguments of the outer call with the pictures as `pixel_values`, checked.

        Raises:
            LightKVError: ids and pictures that do not fit, before the model trips over them.
        """

    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        refuse_other_heads(model, self.decoder(model))
        self.check(model)
        self._refuse_compiled(model)
        self._check_contact(model)
        return ExpandingAttachment(self, model, engine, layout)


class ExpandingAttachment(HFAttachment):
    """Hooks of one session in such a model."""

    _adapter: ExpandingAdapter

    def __init__(
        self,
        adapter: ExpandingAdapter,
        model: nn.Module,
        engine: Engine,
        layout: VisionLayout | None,
    ) -> None:
        self._outer: Kwargs = {}
        self._past = 0
        self._fed: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()
        super().__init__(adapter, model, engine, layout)

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        given = bind(module, args, kwargs)
        seen = given if self._given is not None else self._adapter.with_pixels(self._model, given)
        super()._on_call(module, (), seen)
        # Not before: another thread's pass may still run.
        self._outer = seen if self._given is None else {}

    def _on_call_end(self, module: nn.Module, args: Any, output: Any = None) -> None:
        if self._lock.mine():
            self._outer = {}
        super()._on_call_end(module, args, output)

    def _read_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> ModelInputs:
        """The decoder's own arguments, with the ids and the pictures of the outer call."""
        own = super()._read_inputs(module, args, kwargs)
        outer = self._outer
        if outer.get("pixel_values") is None or own.length == 1:
            return own
        host = outer["input_ids"].detach().cpu().numpy()
        return ModelInputs({**outer, **own.arguments}, host, own.pads, True)

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        super()._on_decoder(module, args, kwargs)
        cache = contact.cache_of(self._arguments)
        self._past = 0 if cache is None else self._positions_in(cache)
        fitted = None if cache is None else self._fitted(self._arguments, cache)
        if fitted is None:
            return None
        self._arguments = fitted
        return (), fitted

    def _end_pass(self, output: Any) -> None:
        forward = self._forward
        super()._end_pass(output)
        if output is None or forward is None or forward.cache is None:
            return
        entries = int(forward.cache.get_seq_length(0))
        self._fed[forward.cache] = self._past + forward.queries, entries

    def _positions_in(self, cache: Any) -> int:
        """Positions that made a cache, counted without compression and without what was cropped."""
        entries = int(cache.get_seq_length(0))
        fed, then = self._fed.get(cache, (entries, entries))
        return fed - (then - entries)

    def _lacks_positions(self) -> bool:
        # `_fitted` counts them: the outer forward takes none.
        return False

    def _fitted(self, arguments: Kwargs, cache: Any) -> Kwargs | None:
        """Mask and positions of a pass that goes on with a compressed cache."""
        record = self._caches.records.get(cache)
        if record is None or not any(record.compressed):
            return None
        embeddings = arguments.get("inputs_embeds")
        tokens = arguments["input_ids"] if embeddings is None else embeddings
        batch, queries = tokens.shape[:2]
        mask = continued_padding(
            record, arguments.get("attention_mask"), batch, queries, tokens.device
        )
        # The record does not know yet what was cropped since: the last of the old entries.
        gone = record.length(0) - int(cache.get_seq_length(0))
        out = {**arguments, "attention_mask": mask[:, max(0, gone) :]}
        if record.compressed[0] and out.get("position_ids") is None:
            places = torch.arange(self._past, self._past + queries, device=tokens.device)
            out["position_ids"] = places[None]
        return out
