"""What modelling code of the transformers 4 era shares: the engine hooked into its decoder.

InternVL2 ships such code with its checkpoints. It differs from what transformers builds today in four
ways, which are what this file is about:

* A layer takes its own `past_key_value`, a (key, value) tuple, and returns a new one in its output
  tuple. `tuple_cache.py` says how a cache is recognised.
* Rotary tables are made inside each attention by `rotary_emb(x, seq_len)`, cut to the entries of
  *that* layer and indexed with `position_ids`. A compressed layer holds fewer entries than its
  positions count, so `seq_len` is raised to what the uncompressed layer would have asked for; that
  also keeps dynamic scaling as it was.
* There is no attention interface to tap: see `projection_tap.py`.
* The 2-D mask that reaches the decoder counts what was fed and must fit layer 0; each attention checks
  the size of its 4-D float mask strictly.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from lightkv.adapters.hf.attachment import HFAttachment
from lightkv.adapters.hf.cache_checks import check_keys, check_tuples, refuse_uncached
from lightkv.adapters.hf.forward import ForwardPass, Kwargs
from lightkv.adapters.hf.hook_checks import refuse_checkpointing
from lightkv.adapters.hf.inputs import (
    ModelInputs,
    bind,
    carries_vision,
    left_padding,
    refuse_full_length,
)
from lightkv.adapters.hf.masks import continued_padding
from lightkv.adapters.remote.family import RemoteFamily
from lightkv.adapters.remote.projection_tap import ProjectionTap, tables_at
from lightkv.adapters.remote.tuple_cache import (
    Lineage,
    TupleCache,
    returned_past,
    tuple_lengths,
)
from lightkv.core.errors import ModelError
from lightkv.core.layout import VisionLayout
from lightkv.core.run.engine import Engine
from lightkv.core.run.report import HeldLayer
from lightkv.core.transfer import to_device


class RemoteAttachment(HFAttachment):
    """Hooks of one session in one model of remote code."""

    _adapter: RemoteFamily

    def __init__(
        self,
        adapter: RemoteFamily,
        model: nn.Module,
        engine: Engine,
        layout: VisionLayout | None,
    ) -> None:
        self._lineage = Lineage()
        self._local = threading.local()
        super().__init__(adapter, model, engine, layout)

    def _make_tap(self, layer: nn.Module) -> Any:
        attention = self._adapter.attention(layer)
        projections = self._adapter.projections(attention)
        return ProjectionTap(attention, projections, self._adapter.query_key)

    def _hook(self) -> None:
        super()._hook()
        add = self._handles.append
        outer = self._adapter.input_module(self._model)
        add(outer.register_forward_hook(self._forget, always_call=True))
        rotaries: list[Any] = [self._adapter.attention(layer).rotary_emb for layer in self._layers]
        for rotary in {id(module): module for module in rotaries}.values():
            add(rotary.register_forward_pre_hook(self._on_rotary, with_kwargs=True))
            add(rotary.register_forward_hook(self._after_rotary))
        if self._adapter.generates_around and "generate" not in vars(self._model):
            self._model.generate = self._wrapped(self._model.generate)

    def _wrapped(self, method: Any) -> Any:
        """`generate` of the instance, which hands us what it was called with; it is no forward pass."""
        signature = inspect.signature(method)

        @functools.wraps(method)
        def generate(*args: Any, **kwargs: Any) -> Any:
            self._adapter.check_generate(self._model)
            self._engine.profiler.start()
            self._notice(dict(signature.bind_partial(*args, **kwargs).arguments))
            try:
                return method(*args, **kwargs)
            finally:
                self._forget()

        generate._lightkv = True  # type: ignore[attr-defined]
        return generate

    def detach(self) -> None:
        super().detach()
        if hasattr(vars(self._model).get("generate"), "_lightkv"):
            del self._model.generate
        self._local = threading.local()

    @property
    def _outer(self) -> Kwargs:
        """Arguments of the outer call that runs in this thread, until its decoder pass took them."""
        return getattr(self._local, "outer", {})

    @_outer.setter
    def _outer(self, arguments: Kwargs) -> None:
        self._local.outer = arguments

    # -- what comes in ------------------------------------------------------------------------

    def _on_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        self._forget_interrupted()
        self._lock.enter(module)
        self._engine.profiler.start()
        self._notice(bind(module, args, kwargs))

    def _notice(self, arguments: Kwargs) -> None:
        """Keep the arguments of an outer call for the decoder pass that follows."""
        given = self._given is not None
        seen = arguments if given else self._adapter.with_pixels(self._model, arguments)
        refuse_full_length(seen, given)
        if given or carries_vision(seen):
            refuse_uncached(arguments, self._model)
        self._outer = {} if given else seen

    def _forget(self, *_: Any) -> None:
        self._outer = {}

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        super()._on_decoder(module, args, kwargs)
        refuse_checkpointing(module, own_code=True)
        arguments = self._arguments
        past = arguments.get("past_key_values")
        if past is not None:
            check_tuples(past, len(self._layers))
        self._inputs = inputs = self._read(arguments)
        if past is not None:
            keys = {index: key for index, (key, *_) in enumerate(past)}
            check_keys(keys, len(inputs.pads), self._engine.shape.cached_keys)
        self._found = None
        if inputs.has_vision and self._given is None:
            self._found = self._adapter.layout(self._model, inputs)
        fitted = self._fitted(arguments, self._lineage.find(past))
        if fitted is None:
            return None
        self._arguments = fitted
        return (), fitted

    def _read(self, arguments: Kwargs) -> ModelInputs:
        """What the adapter's layout needs: outer arguments, but rows as long as the decoder's."""
        outer, self._outer = self._outer, {}
        embeddings = arguments.get("inputs_embeds")
        tokens = arguments["input_ids"] if embeddings is None else embeddings
        batch, queries = tokens.shape[:2]
        mask, pads = arguments.get("attention_mask"), (0,) * batch
        if queries > 1 and mask is not None:
            pads = left_padding(mask, batch, queries)
        if queries > 1 and embeddings is not None and not outer and self._given is None:
            raise ModelError(
                "embeddings reached the decoder, but the ids that would tell vision tokens did not",
                field="inputs_embeds",
                remedy="call the whole model (model(…), model.generate(…) or model.chat(…)), or "
                "give the spans: compress(model, …, layout=VisionLayout.from_spans(…))",
            )
        has_vision = queries > 1 and outer.get("pixel_values") is not None
        host = None
        if has_vision and outer.get("input_ids") is not None:
            host = outer["input_ids"].detach().cpu().numpy()
            # Beams repeat the rows of the decoder after the ids were seen.
            host = np.repeat(host, max(1, batch // len(host)), axis=0)
        own = {"input_ids": None, "inputs_embeds": tokens, "attention_mask": mask}
        return ModelInputs({**outer, **own}, host, pads, has_vision)

    def _lacks_positions(self) -> bool:
        # `_fitted` counts them where the caller did not.
        return False

    def _fitted(self, arguments: Kwargs, made: TupleCache | None) -> Kwargs | None:
        """Mask and positions of a decoder that continues a compressed cache."""
        record = None if made is None else self._caches.records.get(made)
        if made is None or record is None or not any(record.compressed):
            return None
        ids = arguments.get("input_ids")
        tokens = arguments["inputs_embeds"] if ids is None else ids
        batch, queries = tokens.shape[:2]
        given, device = arguments.get("attention_mask"), tokens.device
        mask = continued_padding(record, given, batch, queries, device)
        out = {**arguments, "attention_mask": mask}
        if record.compressed[0] and arguments.get("position_ids") is None:
            places = torch.arange(made.fed, made.fed + queries, device=device)
            out["position_ids"] = places[None]
        return out

    # -- caches -------------------------------------------------------------------------------

    def _cache_of(self, kwargs: Kwargs) -> Any:
        past = self._arguments.get("past_key_values")
        if past is None and not kwargs.get("use_cache"):
            return None
        made = self._lineage.find(past)
        lengths = tuple_lengths(past, len(self._layers))
        cache = TupleCache(lengths, lengths[0])
        if made is not None:
            cache = TupleCache(lengths, made.fed, made.marks, made.prompt)
        self._caches.hand_on(made, cache)
        return cache

    def _lengths(self, forward: ForwardPass, output: Any) -> Sequence[int] | None:
        past = returned_past(output, len(self._layers))
        return None if past is None else tuple_lengths(past, len(self._layers))

    def _held(self, forward: ForwardPass, output: Any) -> Sequence[HeldLayer] | None:
        past = returned_past(output, len(self._layers))
        if forward.cache is None or past is None:
            return None
        return [
            HeldLayer(key.nbytes + value.nbytes, key.shape[0] * key.shape[2])
            for key, value, *_ in past
        ]

    def _end_pass(self, output: Any) -> None:
        forward = self._forward
        super()._end_pass(output)
        if output is None or forward is None or forward.cache is None:
            return
        past = returned_past(output, len(self._layers))
        if past is not None:
            made = self._lineage.keep(past, self._fed(forward), forward.cache)
            self._caches.hand_on(forward.cache, made)

    @staticmethod
    def _fed(forward: ForwardPass) -> int:
        """Positions fed up to the end of this pass, counted without compression."""
        past = 0 if forward.cache is None else forward.cache.fed
        return int(past) + forward.queries

    # -- layers -------------------------------------------------------------------------------

    def _on_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs] | None:
        # Masks and positions come by place where such code checkpoints gradients.
        named = bind(layer, args, kwargs)
        return super()._on_layer(index, layer, (named.pop("hidden_states"),), named)

    def _layer_arguments(
        self, forward: ForwardPass, index: int, hidden: torch.Tensor, kwargs: Kwargs
    ) -> Kwargs | None:
        if not forward.touched(index):
            return None
        out = dict(kwargs)
        given = kwargs.get("attention_mask")
        out["attention_mask"] = self._masks.of_layer(forward, index, hidden, given)
        if forward.compressing:
            out["position_ids"] = self._kept_ids(forward, kwargs["position_ids"])
        elif self._engine.pipeline.positions.decode == "contiguous":
            out["position_ids"] = self._shifted_ids(forward, index, kwargs["position_ids"])
        return out

    def _kept_ids(self, forward: ForwardPass, ids: torch.Tensor) -> torch.Tensor:
        """`[B, N′]` rows of the rotary tables that the survivors take."""
        prefill = forward.prefill
        assert prefill is not None
        assert prefill.kept is not None
        stage, kept = len(prefill.stages_done), prefill.kept
        if prefill.positions is None:
            make = partial(ids.expand(kept.shape[0], -1).gather, 1, kept.to(ids.device))
        else:
            # `_after_rotary` makes tables with a row for each token, in this order.
            make = partial(_numbered, kept)
        return forward.once(("ids", stage), make)

    @staticmethod
    def _shifted_ids(forward: ForwardPass, index: int, ids: torch.Tensor) -> torch.Tensor:
        """Positions of new tokens that follow this layer's own, shorter, prompt."""
        assert forward.record is not None
        removed = forward.record.removed[index]
        return forward.once(
            ("shifted", removed), lambda: ids - to_device(removed, ids.device)[:, None]
        )

    def _on_rotary(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs] | None:
        arguments = bind(module, args, kwargs)
        if self._forward is None or arguments.get("seq_len") is None:
            return None
        longest = max(arguments["seq_len"], self._fed(self._forward))
        return (), {**arguments, "seq_len": longest}

    def _after_rotary(self, module: nn.Module, args: Any, tables: Any) -> Any:
        forward = self._forward
        if forward is None or not forward.compressing:
            return None
        assert forward.prefill is not None
        positions = forward.prefill.positions
        if positions is None:
            return None
        return tables_at(tables, positions[0].to(tables[0].device))


def _numbered(kept: torch.Tensor) -> torch.Tensor:
    """0, 1, 2, … in the shape `[B, N′]` of `kept`."""
    return torch.arange(kept.numel(), device=kept.device).view(kept.shape)
