"""The caches that one session has seen: the record of each, its guard and its last report."""

from __future__ import annotations

import weakref
from typing import Any

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.cache_checks import (
    check_cache,
    check_changes,
    check_made_here,
    check_padding,
    refuse_after_first,
    refuse_other_rows,
    refuse_preallocated,
)
from lightkv.adapters.hf.cache_guard import CacheGuard, check_own, guard_of
from lightkv.adapters.hf.cache_record import CacheRecord, counts_fed_positions, stored_lengths
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.core.run.engine import Engine
from lightkv.core.run.report import RunReport


class SessionCaches:
    """What a session knows of caches, for as long as they live.

    Args:
        engine: of the session.
        num_layers: of the decoder.
        guarded: whether caches are objects, whose methods can be guarded.
        lengthless: layers whose cache tells no length.

    Attributes:
        records: cache → what it holds.
        reports: cache → the report of its last prefill.
    """

    def __init__(
        self,
        engine: Engine,
        num_layers: int,
        *,
        guarded: bool,
        lengthless: frozenset[int] = frozenset(),
    ) -> None:
        self.records: weakref.WeakKeyDictionary[Any, CacheRecord] = weakref.WeakKeyDictionary()
        self.reports: weakref.WeakKeyDictionary[Any, RunReport] = weakref.WeakKeyDictionary()
        self._engine, self._num_layers, self._guarded = engine, num_layers, guarded
        self._lengthless = lengthless

    def record_of(
        self,
        cache: Any,
        batch: int,
        queries: int,
        inputs: ModelInputs | None,
        *,
        drafts: int,
        checks_drafts: bool,
        lacks_positions: bool,
    ) -> CacheRecord:
        """The record of a cache on which a pass begins, in line with what the cache holds.

        Args:
            cache: something that tells lengths.
            batch, queries: rows and new positions of the pass.
            inputs: of the pass, None where the decoder was called by itself.
            drafts: guesses at the end of the prompt.
            checks_drafts: whether all new tokens are guesses that are checked.
            lacks_positions: whether the caller left it to the model to count positions.

        Raises:
            SessionError, LayoutError: the pass cannot go on with the cache.
        """
        if cache not in self.records:
            contact.check_cache(cache)
        refuse_preallocated(cache)
        check_cache(self._engine.pipeline, cache, drafts)
        record = self.records.get(cache)
        if record is None or len(record.removed[0]) != batch:
            refuse_other_rows(record, batch)
            record = self._first_record(cache, batch, inputs)
        else:
            _follow(record, cache, (0,) * batch)
            if inputs is not None and queries > 1 and not checks_drafts:
                vision = inputs.has_vision or any(record.compressed)
                check_padding(record, inputs.arguments.get("attention_mask"), queries, vision)
        # A pass that checks drafts wants all its logits, and its tokens are known to be new.
        new_turn = queries > 1 and not checks_drafts
        # A cache with a stage of its own says itself how much was fed.
        first = record.first
        if record.compressed[first] and record.length(first) and not counts_fed_positions(cache):
            refuse_after_first(first, new_turn, lacks_positions)
        return record

    def _first_record(self, cache: Any, batch: int, inputs: ModelInputs | None) -> CacheRecord:
        """The record of a cache that the session has not seen, or not with so many rows."""
        check_own(cache)
        record = CacheRecord.empty(self._num_layers, batch, self._lengthless)
        check_made_here(cache, batch, self._engine.shape.cached_keys, len(self._lengthless))
        past = int(cache.get_seq_length(0))
        _follow(record, cache, inputs.past_pads(past) if past and inputs else (0,) * batch)
        self.records[cache] = record
        return record

    def hand_on(self, old: Any, new: Any) -> None:
        """Let a cache begin with what is known of the one that it continues."""
        if old is not None and old in self.records:
            self.records[new] = self.records[old].copy()
        if old is not None and old in self.reports:
            self.reports[new] = self.reports[old]

    def open(self, cache: Any) -> None:
        """Let the pass add entries to a cache, which is guarded from now on."""
        if cache is not None and self._guarded:
            CacheGuard.set_on(cache, self.records[cache]).open = True

    @staticmethod
    def close(cache: Any) -> None:
        """The pass is over, however it ended."""
        guard = None if cache is None else guard_of(cache)
        if guard is not None:
            guard.open = False

    def leave(self) -> None:
        """The session is over: caches that no stage shortened are ordinary ones again."""
        for cache, record in self.records.items():
            self.close(cache)
            guard = guard_of(cache)
            if guard is not None and not any(record.compressed):
                guard.lift(cache)


def _follow(record: CacheRecord, cache: Any, pads: tuple[int, ...]) -> None:
    """Bring a record in line with what happened to its cache since the last pass."""
    lengths = record.all_lengths(stored_lengths(cache, record))
    check_changes(record, lengths)
    record.follow(lengths, pads)
