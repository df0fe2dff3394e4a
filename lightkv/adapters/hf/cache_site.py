"""The cache site in a Hugging Face decoder: entries are compressed as soon as their layer has run.

The tensors of a `DynamicCache` layer are replaced by shorter ones. Layer 0 is then shorter than what
was fed, and transformers reads from it where the next token stands and which tokens of a new turn
are cached already; so the cache itself is told to answer with the number of positions that were fed.
"""

from __future__ import annotations

from typing import Any

import torch

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.cache_checks import check_layers
from lightkv.adapters.hf.cache_record import CacheRecord, FedPositions
from lightkv.adapters.hf.forward import ForwardPass


def evict(forward: ForwardPass | None, index: int) -> None:
    """Compress the new entries of a layer that has just run."""
    if forward is None or forward.prefill is None or forward.cache is None:
        return
    prefill, record = forward.prefill, forward.record
    assert record is not None
    entry = contact.cache_layers(forward.cache)[index]
    check_layers(forward.cache)
    if index in record.lengthless:
        return
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
    count_fed_positions(forward.cache, record)


def count_fed_positions(cache: Any, record: CacheRecord) -> None:
    """From now on the cache counts what was fed, not what is left of it."""
    cache.get_seq_length = FedPositions(cache.layers, record)
