"""The cache site in a Hugging Face decoder: entries are compressed as soon as their layer has run.

The tensors of a `DynamicCache` layer are replaced by shorter ones. Layer 0 is then shorter than what
was fed, and transformers reads from it where the next token stands and which tokens of a new turn
are cached already; so the cache itself is told to answer with the number of positions that were fed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.cache_record import CacheRecord, FedLength
from lightkv.adapters.hf.forward import Forward
from lightkv.core.errors import ModelError, SessionError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.engine import Engine

if TYPE_CHECKING:
    from torch import nn

    from lightkv.adapters.hf.adapter import HFAdapter


def check_pipeline(adapter: HFAdapter, model: nn.Module, engine: Engine) -> None:
    """Refuse a stage on the cache, or proportional attention, where the model cannot have it.

    Raises:
        ModelError: sliding windows, shared keys and values, caches that are tuples; attention that
            takes no additive mask.
    """
    pipeline = engine.pipeline
    if pipeline.on_cache is not None:
        _check_caches(adapter, model)
    if not pipeline.spec.proportional:
        return
    if not adapter.replaces_entries:
        raise ModelError(
            "sizes of merged tokens are added to the masks that transformers hands to its own "
            "attention, and this code makes its own",
            field="proportional",
            value=True,
            remedy="leave proportional out, or use the transformers-native class of the model",
        )
    implementation = adapter.attention_implementation(model)
    if implementation not in (None, "eager", "sdpa"):
        raise ModelError(
            "log(size) of merged tokens is added to attention logits, and this attention takes no "
            "additive mask; only eager and SDPA do",
            field="attn_implementation",
            value=implementation,
            remedy="model.set_attn_implementation('sdpa') (or 'eager'), or leave proportional out",
        )


def _check_caches(adapter: HFAdapter, model: nn.Module) -> None:
    problem = None
    config: Any = adapter.decoder(model).config
    if not adapter.replaces_entries:
        problem = "this code keeps its cache in tuples that it hands from layer to layer itself"
    elif any(adapter.windows(model)):
        problem = "layers with a sliding window forget entries by their place, which would be wrong"
    elif getattr(config, "num_kv_shared_layers", 0):
        problem = "some layers read the keys and values of others, which must stay as they are"
    if problem is not None:
        raise ModelError(
            problem,
            field="schedule, site: cache",
            value=type(model).__name__,
            remedy="use stages between layers (after_layer)",
        )


def check_cache(pipeline: Pipeline, cache: Any, drafts: int) -> None:
    """Refuse caches whose entries the stage on the cache, if there is one, cannot replace by fewer.

    Args:
        pipeline: may have such a stage.
        cache: of the pass that begins.
        drafts: guesses at the end of the pass that the caller may take back.

    Raises:
        SessionError: quantised, offloaded or other special caches; drafts among the entries.
    """
    if pipeline.on_cache is None:
        return
    _check_entries(cache)
    if pipeline.counts_text and drafts:
        raise SessionError(
            "drafts that are fed with the prompt may be taken back, but under scope: all they "
            "would be merged or evicted with it",
            field="schedule, scope",
            value="all",
            remedy="use scope: vision, or decode without an assistant",
        )


def _check_entries(cache: Any) -> None:
    strange = contact.keeps_otherwise(cache)
    if strange is not None:
        raise SessionError(
            "a stage on the cache replaces the tensors of plain dynamic layers; this cache keeps "
            "its entries in another form",
            field="past_key_values",
            value=strange.__name__,
            remedy="use the default DynamicCache, or stages between layers",
        )
    if getattr(cache, "offloading", False):
        raise SessionError(
            "an offloaded cache moves entries away before they can be compressed",
            field="past_key_values",
            value=type(cache).__name__,
            remedy="use the default DynamicCache, or stages between layers",
        )


def evict(forward: Forward | None, index: int) -> None:
    """Compress the new entries of a layer that has just run."""
    if forward is None or forward.prefill is None or forward.cache is None:
        return
    prefill, record = forward.prefill, forward.record
    assert record is not None
    entry = contact.cache_layers(forward.cache)[index]
    _check_entries(forward.cache)
    past = entry.keys.shape[2] - forward.new_entries
    key, value = entry.keys[:, :, past:], entry.values[:, :, past:]
    made = prefill.compress_cache(index, key, value)
    if made is None:
        return
    if past:
        old = entry.keys[:, :, :past], entry.values[:, :, :past]
        made = torch.cat([old[0], made[0]], dim=2), torch.cat([old[1], made[1]], dim=2)
    entry.keys, entry.values = made
    forward.note_eviction(index, prefill.cached[index])
    tell_fed(forward.cache, record)


def tell_fed(cache: Any, record: CacheRecord) -> None:
    """From now on the cache counts what was fed, not what is left of it."""
    cache.get_seq_length = FedLength(cache.layers, record)
