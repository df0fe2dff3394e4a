"""The engine hooked into a Hugging Face decoder: forward pre-hooks, nothing patched.

What decoder layers receive is listed in `contact.py`. The pre-hook of layer λ replaces hidden
states by compressed ones; it and those of all later layers replace masks and rotary embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf import cache_site, contact
from lightkv.adapters.hf.cache_checks import check_replaceable, refuse_preallocated, refuse_uncached
from lightkv.adapters.hf.cache_record import slides, stored_entries, stored_lengths
from lightkv.adapters.hf.callers import read_drafts
from lightkv.adapters.hf.deepstack import added_places
from lightkv.adapters.hf.encoder import EncoderRecorder
from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.features import PICTURES, FeatureCapture, FeatureCount
from lightkv.adapters.hf.forward import ForwardPass, Kwargs, text_after_images
from lightkv.adapters.hf.hook_checks import hooks_ignored, refuse_checkpointing, refuse_compiled
from lightkv.adapters.hf.inputs import (
    ModelInputs,
    bind,
    carries_vision,
    read_inputs,
    refuse_blind,
    refuse_full_length,
)
from lightkv.adapters.hf.interface_tap import InterfaceTap, attention_reader
from lightkv.adapters.hf.layer_arguments import TokenArguments
from lightkv.adapters.hf.masks import LayerMasks, Windows, check_weights, mask_style
from lightkv.adapters.hf.next_layer import check_next_layer, next_layer_view
from lightkv.adapters.hf.not_copyable import NotCopyable
from lightkv.adapters.hf.pass_lock import PassLock
from lightkv.adapters.hf.rotary import Rotary, axis_positions
from lightkv.adapters.hf.selfcheck import SelfCheck
from lightkv.adapters.hf.session_caches import SessionCaches
from lightkv.adapters.hf.temperature import scale_queries
from lightkv.core.errors import SessionError
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Source, needs_from
from lightkv.core.prompt import prompt_index
from lightkv.core.run.adapter import Attachment
from lightkv.core.run.engine import Engine
from lightkv.core.run.report import HeldLayer


class HFAttachment(Attachment, NotCopyable):
    """Hooks of one session in one model."""

    def __init__(
        self,
        adapter: Family,
        model: nn.Module,
        engine: Engine,
        layout: VisionLayout | None,
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._engine = engine
        self._given = layout
        self._decoder = adapter.decoder(model)
        # Whether the model is called around what takes ids and pixels, or is that itself.
        around = model is not adapter.input_module(model)
        self._calls = around or (model is not self._decoder and adapter.replaces_entries)
        self._layers = list(adapter.layers(model))
        windows = adapter.windows(model)
        self._check_pipeline(windows)
        self._recurrent = adapter.recurrent(model)
        self._masks = LayerMasks(
            windows,
            causal=adapter.causal,
            recurrent=self._recurrent,
            chunked=adapter.chunked(model),
            blocked=adapter.blocked(model),
        )
        self._sources = adapter.sources(model)
        self._windowed = any(windows) or any(map(contact.place_scale, adapter.attentions(model)))
        self._rotary = Rotary(adapter, self._decoder, len(self._layers), engine.pipeline.positions)
        self._tokens = TokenArguments(self._layers, adapter.token_arguments)
        self._taps = {i: self._make_tap(self._layers[i]) for i in engine.pipeline.tapped_layers}
        self._caches = SessionCaches(
            engine,
            len(self._layers),
            guarded=adapter.replaces_entries,
            lengthless=adapter.lengthless(model),
        )
        self._capture = FeatureCapture(
            adapter.input_module(model),
            self._on_vision,
            self._on_features,
            engine.profiler.discard,
        )
        check_next_layer(adapter, model, engine.pipeline)
        self._encoder = EncoderRecorder(
            adapter, model, engine.pipeline, self._capture, spans_given=layout is not None
        )
        self._lock = PassLock()
        self._selfcheck = SelfCheck(
            len(self._layers),
            windows,
            takes_arguments=adapter.replaces_entries,
            recurrent=self._recurrent,
        )
        self._reached = False
        self._count = FeatureCount()
        self._inputs: ModelInputs | None = None
        self._found: VisionLayout | None = None
        self._drafts = 0
        self._wanted: Any = None
        self._style = ""
        self._arguments: Kwargs = {}
        self._forward: ForwardPass | None = None
        self._handles: list[Any] = []
        try:
            self._hook()
        except BaseException:
            self.detach()
            raise

    def _check_pipeline(self, windows: Windows) -> None:
        """Refuse a stage on the cache, or proportional attention, where the model cannot have it."""
        adapter, pipeline = self._adapter, self._engine.pipeline
        tuples = not adapter.replaces_entries
        if pipeline.on_cache is not None:
            config = self._decoder.config
            check_replaceable(self._model, config, tuples=tuples, windowed=any(windows))
        if pipeline.spec.proportional:
            check_weights(adapter.attention_implementation(self._model), makes_masks=tuples)

    def _make_tap(self, layer: nn.Module) -> Any:
        """What shows query and key of a layer's attention call: see `InterfaceTap`."""
        return InterfaceTap(self._adapter.attention(layer))

    def _hook(self) -> None:
        before = partial(nn.Module.register_forward_pre_hook, with_kwargs=True)
        outer = self._adapter.input_module(self._model)
        self._capture.open()
        self._encoder.open()
        add = self._handles.append
        for module in self._adapter.vision_modules(self._model):
            add(module.register_forward_pre_hook(self._on_vision))
        if self._calls:
            add(before(self._model, self._on_call))
        if self._model is not outer:
            add(self._model.register_forward_hook(self._on_call_end, always_call=True))
        add(before(outer, self._on_inputs))
        add(before(self._decoder, self._on_decoder))
        for index, layer in enumerate(self._layers):
            add(before(layer, partial(self._on_layer, index)))
        attentions = self._adapter.attentions(self._model)
        self._handles += scale_queries(attentions, lambda: self._forward)
        on_cache = self._engine.pipeline.on_cache is not None
        for index, layer in enumerate(self._layers if on_cache else ()):
            add(layer.register_forward_hook(partial(self._on_layer_end, index)))
        for index, tap in self._taps.items():
            tap.install()
            after = partial(self._after_tapped, index)
            add(self._layers[index].register_forward_hook(after, always_call=True))
        add(self._decoder.register_forward_hook(self._on_decoder_end, always_call=True))
        # After the decoder's, which may be a hook of the same module.
        add(outer.register_forward_hook(self._on_inputs_end, always_call=True))
        if self._calls and self._model is outer:
            add(self._model.register_forward_hook(self._on_call_end, always_call=True))

    def detach(self) -> None:
        with self._lock.alone():
            self._unhook()

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for tap in self._taps.values():
            tap.remove()
        self._capture.close()
        self._encoder.close()
        self._caches.leave()
        self._forward = self._inputs = self._found = None
        self._arguments = {}

    # -- hooks --------------------------------------------------------------------------------

    def _on_vision(self, *_: Any) -> None:
        self._forget_interrupted()
        self._engine.profiler.start()

    def _forget_interrupted(self) -> None:
        """A pass of this thread that Ctrl-C ended left its clock running."""
        if self._engine.profiler.enabled and self._lock.was_interrupted():
            self._engine.profiler.discard()

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        self._forget_interrupted()
        self._lock.enter(module)
        refuse_compiled(module)
        self._reached = False
        arguments = bind(module, args, kwargs)
        spans_given, vision = self._given is not None, carries_vision(arguments)
        refuse_full_length(arguments, spans_given)
        if vision or spans_given:
            refuse_uncached(arguments, module)
        self._drafts, self._wanted = read_drafts(
            arguments, module, vision=vision, spans_given=spans_given
        )

    def _on_call_end(self, module: nn.Module, args: Any, output: Any = None) -> None:
        if not self._lock.mine():
            return
        self._drafts, self._wanted = 0, None
        reached = self._reached
        self._lock.leave(module)
        if output is not None and not reached:
            raise hooks_ignored(module)

    def _on_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        self._forget_interrupted()
        self._lock.enter(module)
        self._engine.profiler.start()
        # First of all: the mask of a static cache is as wide as the cache, and looks like padding.
        refuse_preallocated(contact.cache_of(kwargs))
        self._inputs = self._read_inputs(module, args, kwargs)
        self._found, self._count = None, FeatureCount()
        refuse_blind(self._inputs, self._given is not None)
        if self._inputs.has_vision and self._inputs.length > 1 and self._given is None:
            # Before the model looks itself: its complaint about placeholders names no input.
            found = self._adapter.layout(self._model, self._inputs)
            rows = found.counts_by_modality
            placed = sum(row[kind] for row in rows for kind in PICTURES & row.keys())
            self._count.expect(self._inputs, placed + self._adapter.left_out(self._inputs))
            # Some models are given their pictures in each pass of a generation; they are in the first.
            self._found = found if any(found.vision_counts) else None
        if self._inputs.length == 1 and not self._inputs.has_vision:
            # Decoding has begun: nobody asks for the pictures again, so let their pixels go.
            self._capture.seen.clear()

    def _read_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> ModelInputs:
        return read_inputs(module, args, kwargs, self._capture.seen)

    def _on_features(self, modality: str, output: Any, arguments: Kwargs) -> None:
        self._count.made(modality, output, arguments)

    def _on_inputs_end(self, module: nn.Module, args: Any, output: Any = None) -> None:
        if not self._lock.mine():
            return
        self._inputs = self._found = None
        self._count = FeatureCount()
        if output is None:
            # It raised, perhaps before the decoder: what was timed so far belongs to no request.
            self._engine.profiler.discard()
        if module is not self._model or not self._calls:
            self._lock.leave(module)

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        self._lock.enter(module)
        refuse_compiled(module)
        if self._forward is not None:
            # Of a pass that Ctrl-C ended.
            self._caches.close(self._forward.cache)
        self._forward, self._reached = None, True
        # A pass that was interrupted (Ctrl-C) skips the hooks that close taps.
        self._close_taps()
        # Asked in each pass, because a caller may set another implementation between two.
        self._style = mask_style(self._adapter.attention_implementation(self._model))
        self._arguments = bind(module, args, kwargs)
        refuse_checkpointing(self._layers[0])

    def _on_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs] | None:
        hidden = args[0] if args else contact.layer_argument(kwargs, "hidden_states")
        if index == 0:
            self._forward = self._begin(hidden, kwargs)
        forward = self._forward
        if forward is None:
            return None
        self._selfcheck.layer(index, hidden)
        self._show_next_layer(forward, index, hidden, kwargs)
        new_hidden = self._compress(forward, index, hidden)
        tail = self._check_tail(forward, index, new_hidden)
        forward.note_entries(index, forward.new_entries if tail else new_hidden.shape[1])
        changed = self._layer_arguments(forward, index, new_hidden, kwargs)
        if self._selfcheck.running:
            given = kwargs if changed is None else changed
            self._selfcheck.arguments(index, new_hidden.shape[1], given)
        if index in self._taps and forward.prefill is not None:
            self._open_tap(forward, index)
        if changed is None:
            return None
        rest = args[1:]
        if forward.compressing and not tail:
            kept = forward.kept
            rest, changed = self._tokens.of_survivors(layer, forward.queries, kept, rest, changed)
        if args:
            return (new_hidden, *rest), changed
        return (), {**changed, "hidden_states": new_hidden}

    def _check_tail(self, forward: ForwardPass, index: int, hidden: torch.Tensor) -> bool:
        """Whether a layer is called on the last positions only.

        transformers does that where layers read the entries of others, which are there already.

        Raises:
            SessionError: more of them than stand behind all images.
        """
        count = hidden.shape[1]
        if index not in self._sources or count == forward.new_entries:
            return False
        prefill = forward.prefill
        if forward.compressing and prefill is not None:
            text = max(1, text_after_images(prefill.first_layout))
            if count > text:
                raise SessionError(
                    f"logits are wanted of the last {count} positions, but only {text} stand behind the "
                    "images, and the others may be gone",
                    field="logits_to_keep",
                    value=count,
                    remedy=f"ask for at most {text}",
                )
        return True

    def _on_layer_end(self, index: int, *_: Any) -> None:
        cache_site.evict(self._forward, index)

    def _after_tapped(self, index: int, module: nn.Module, args: Any, output: Any = None) -> None:
        unseen = self._taps[index].unread
        self._close_taps()
        if unseen and output is not None:
            raise contact.unexpected(
                f"the attention of layer {index} did not call the function that its config names",
                field="config",
                value=type(self._adapter.attention(module)).__name__,
            )

    def _close_taps(self, *_: Any) -> None:
        for tap in self._taps.values():
            tap.close()

    def _on_decoder_end(self, module: nn.Module, args: Any, output: Any = None) -> None:
        if not self._lock.mine():
            return
        try:
            self._end_pass(output)
        finally:
            self._lock.leave(module)

    def _end_pass(self, output: Any) -> None:
        """The decoder returned `output`, None if it raised."""
        forward, self._forward = self._forward, None
        self._inputs = self._found = None
        self._arguments, self._drafts, self._wanted = {}, 0, None
        self._encoder.clear()
        if forward is not None:
            self._caches.close(forward.cache)
            if (
                self._decoder.training
                and forward.cache is not None
                and not stored_entries(forward.cache, 0)
            ):
                # Layers that checkpoint activations leave the cache that they were given alone.
                forward.cache = forward.record = None
        if output is None:
            # Called all the same when the pass raised: there is nothing to report.
            self._engine.profiler.discard()
            self._selfcheck.stop()
            return
        if forward is None:
            raise hooks_ignored(self._layers[0])
        if self._selfcheck.running:
            self._selfcheck.end(output, self._lengths(forward, output))
        if forward.prefill is not None:
            report = self._engine.finish(
                forward.prefill,
                cached=forward.cache is not None,
                keeps_all=forward.cache is not None and not slides(forward.cache),
                held=self._held(forward, output),
            )
            if forward.cache is not None:
                self._caches.reports[forward.cache] = report
        elif forward.cache is not None:
            self._engine.profiler.step_end(self._caches.reports.get(forward.cache), 1)

    def _lengths(self, forward: ForwardPass, output: Any) -> Sequence[int | None] | None:
        """Entries of each layer of the cache after a pass, None for layers without."""
        if forward.cache is None or forward.record is None:
            return None
        return stored_lengths(forward.cache, forward.record)

    def _held(self, forward: ForwardPass, output: Any) -> Sequence[HeldLayer] | None:
        """What the layers of the cache hold after a pass."""
        if forward.cache is None:
            return None
        held = [
            HeldLayer(contact.held_bytes(layer), forward.batch * contact.held_entries(layer))
            for layer in contact.cache_layers(forward.cache)
        ]
        # Some caches have no layers for decoder layers that read the entries of others.
        return held + [HeldLayer(0, 0)] * (len(self._layers) - len(held))

    # -- one pass -----------------------------------------------------------------------------

    def _begin(self, hidden: torch.Tensor, kwargs: Kwargs) -> ForwardPass:
        batch, queries = hidden.shape[:2]
        cache = self._cache_of(kwargs)
        pads = self._inputs.pads if self._inputs is not None else (0,) * batch
        if len(pads) != batch:
            pads = (0,) * batch
        record = None
        if cache is not None:
            record = self._caches.record_of(
                cache,
                batch,
                queries,
                self._inputs,
                drafts=self._drafts,
                checks_drafts=self._wanted == queries,
                lacks_positions=self._lacks_positions(),
            )
        layout = self._layout(cache, queries, batch)
        prefill = None
        if layout is not None:
            added = added_places(self._arguments)
            self._engine.pipeline.schedule.check_places(len(self._layers), added)
            prefill = self._engine.begin(layout, self._drafts)
            prefill.vision = self._encoder.view(self._inputs, layout)
            prefill.read_embeddings(hidden)
            if not self._adapter.keeps_positions(self._engine.pipeline.positions):
                prefill.positions = self._positions(batch, queries, cache, hidden.device)
        else:
            self._engine.profiler.step_begin()
        forward = ForwardPass(
            batch,
            queries,
            pads,
            cache,
            record,
            prefill,
            self._arguments,
            mask_style=self._style,
            windowed=self._windowed,
            recurrent=self._recurrent,
            sources=self._sources,
        )
        # On an empty cache the blocks are in the masks that transformers made.
        filled = record is not None and record.length(record.first) > 0
        if filled and prefill is not None and self._inputs is not None:
            blocks = self._adapter.blocks(self._inputs)
            forward.blocks = None if blocks is None else blocks[:, -queries:]
        self._caches.open(cache)
        vision = prefill is not None and any(prefill.layout.vision_counts)
        self._selfcheck.begin(forward, f"{vision}, {filled}, {queries > 1}, {self._style}")
        return forward

    def _cache_of(self, kwargs: Kwargs) -> Any:
        """The cache of this pass, from the arguments of layer 0. Something that tells lengths."""
        return contact.cache_of(kwargs)

    def _layout(self, cache: Any, queries: int, batch: int) -> VisionLayout | None:
        """Layout of this pass if it is a prefill: a pass with images, or the first of a sequence."""
        fresh = cache is None or int(cache.get_seq_length(0)) == 0
        if self._given is not None:
            return self._given_layout(queries, batch) if fresh and queries > 1 else None
        inputs = self._inputs
        if queries == 1:
            return None
        if inputs is None:
            # The decoder was called by itself.
            refuse_blind(read_inputs(self._decoder, (), self._arguments), spans_given=False)
            return None
        layout = self._found
        if layout is None and fresh:
            rows = [[] for _ in inputs.pads]  # type: ignore[var-annotated]
            layout = VisionLayout.from_spans(rows, length=queries, pads=inputs.pads)
        return layout

    def _lacks_positions(self) -> bool:
        """Whether the caller left it to the model to count positions."""
        inputs = self._inputs
        return inputs is not None and inputs.arguments.get("position_ids") is None

    def _given_layout(self, queries: int, batch: int) -> VisionLayout:
        assert self._given is not None
        layout, inputs = self._given.with_length(queries), self._inputs
        known = inputs is not None and len(inputs.pads) == batch
        pads = inputs.pads if inputs is not None and known else (0,) * batch
        return layout.for_rows(pads)

    def _positions(
        self, batch: int, queries: int, cache: Any, device: torch.device
    ) -> torch.Tensor:
        """`[A, B, N]` rotary positions of this pass."""
        given = self._arguments.get("position_ids")
        if given is None:
            past = int(cache.get_seq_length(0)) if cache is not None else 0
            given = torch.arange(past, past + queries, device=device)[None]
        return axis_positions(self._adapter, self._decoder, given).expand(-1, batch, -1)

    def _compress(self, forward: ForwardPass, index: int, hidden: torch.Tensor) -> torch.Tensor:
        if forward.prefill is None:
            return hidden
        hidden = forward.prefill.apply(index, hidden)
        if forward.prefill.vision is not None and self._encoder.done(index):
            # The encoder's keys and features need not live as long as the prefill.
            forward.prefill.vision = None
            self._encoder.clear()
        return hidden

    def _show_next_layer(
        self, forward: ForwardPass, index: int, hidden: torch.Tensor, kwargs: Kwargs
    ) -> None:
        """Show the stage before layer `index` the attention that the layer would compute now."""
        prefill = forward.prefill
        if prefill is None or not needs_from(prefill.needs(index), Source.NEXT_LAYER):
            return
        given = contact.layer_argument(kwargs, "position_embeddings")
        embeddings = self._rotary.of_layer(forward, index, hidden, given)
        layer = self._layers[index]
        view = next_layer_view(
            forward,
            self._masks,
            index,
            layer,
            self._adapter.attention(layer),
            hidden,
            embeddings,
            contact.layer_argument(kwargs, "attention_mask"),
            prompt_index(prefill.layout, hidden.device),
            drafts=self._drafts,
            heads=self._engine.heads,
        )
        prefill.read_attention(index, view)

    def _layer_arguments(
        self, forward: ForwardPass, index: int, hidden: torch.Tensor, kwargs: Kwargs
    ) -> Kwargs | None:
        """Mask, rotary embeddings and position ids of a layer that compression touched."""
        if not forward.touched(index):
            return None
        out = dict(kwargs)
        mask = contact.layer_argument(kwargs, "attention_mask")
        out["attention_mask"] = self._masks.of_layer(forward, index, hidden, mask)
        if index in self._recurrent:
            out["position_ids"] = None
            return out  # they have no rotary positions
        reads = contact.needs_positions(self._adapter.attention(self._layers[index]))
        out["position_ids"] = self._rotary.position_ids(
            forward, index, kwargs.get("position_ids"), needed=reads
        )
        embeddings = contact.layer_argument(kwargs, "position_embeddings")
        out["position_embeddings"] = self._rotary.of_layer(forward, index, hidden, embeddings)
        return out

    def _open_tap(self, forward: ForwardPass, index: int) -> None:
        reader = attention_reader(
            forward, self._masks, index, drafts=self._drafts, heads=self._engine.heads
        )
        if reader is not None:
            self._taps[index].open(reader)
