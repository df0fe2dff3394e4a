"""What stands before the methods of a cache that holds compressed entries.

Which tokens such a cache holds is known to its session only, so nothing may add entries to it outside
a pass of that session, and its rows may not move without the record. A few methods of the *object* are
shadowed for that: `update` refuses, methods that move rows tell the record. A copy of the cache copies
the guard, which then knows that it guards a copy. An emptied cache is an ordinary cache again (not one
that was pickled: its guard cannot know it).
"""

from __future__ import annotations

import weakref
from typing import Any

from lightkv.adapters.hf.cache_checks import compressed_elsewhere
from lightkv.adapters.hf.cache_record import CacheRecord, is_empty
from lightkv.adapters.hf.contact import ROWS, STATE_METHODS


class CacheGuard:
    """The guard of one cache.

    Attributes:
        record: what the session knows of the cache; None at a copy.
        open: whether a pass of the session runs on the cache right now.
    """

    def __init__(self, cache: Any, record: CacheRecord | None) -> None:
        self._cache: Any = None if cache is None else weakref.ref(cache)
        self.record = record
        self.open = False

    @classmethod
    def set_on(cls, cache: Any, record: CacheRecord) -> CacheGuard:
        """Guard a cache; the guard that is there already goes on."""
        held = guard_of(cache)
        if held is not None and held.record is record:
            return held
        guard = cls(cache, record)
        # Layers with a state come before the first whose entries would be refused.
        states = STATE_METHODS if record.lengthless else ()
        for name in ("update", *ROWS, *(each for each in states if hasattr(cache, each))):
            setattr(cache, name, Guarded(guard, name))
        return guard

    def guards(self, cache: Any) -> bool:
        """Whether it stands on this very object (a shallow copy shares it)."""
        return self._cache is not None and self._cache() is cache

    @property
    def compressed(self) -> bool:
        """Whether a stage shortened what it guards."""
        return self.record is not None and any(self.record.compressed)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A shadowed method is called."""
        cache = None if self._cache is None else self._cache()
        if cache is None:
            raise compressed_elsewhere(copied=True)
        method = getattr(type(cache), name)
        if name in ROWS:
            [given] = [*args, *kwargs.values()]
            index = None if self.record is None else self.record.rows_of(name, given)
            done = method(cache, *args, **kwargs)
            if self.record is not None and index is not None:
                self.record.move_rows(index)
            return done
        if not self.open and (self.record is None or self.compressed):
            if not is_empty(cache):
                raise compressed_elsewhere(copied=self.record is None)
            self.lift(cache)
        return method(cache, *args, **kwargs)

    def lift(self, cache: Any) -> None:
        """Give a cache, which was emptied, the methods of its class back."""
        for name in ("update", "get_seq_length", *ROWS, *STATE_METHODS):
            vars(cache).pop(name, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> CacheGuard:
        original = None if self._cache is None else self._cache()
        return CacheGuard(memo.get(id(original)), None)

    def __reduce__(self) -> Any:
        return CacheGuard, (None, None)


class Guarded:
    """A method of a cache behind its guard."""

    def __init__(self, guard: CacheGuard, name: str) -> None:
        self.guard = guard
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.guard.call(self.name, args, kwargs)


def guard_of(cache: Any) -> CacheGuard | None:
    """The guard of a cache, None where it has none."""
    method = vars(cache).get("update")
    return method.guard if isinstance(method, Guarded) else None


def check_own(cache: Any) -> None:
    """Refuse a cache that another session compressed, or a copy of one that any session did.

    Args:
        cache: one that this session has no record of.

    Raises:
        SessionError: with what to do instead.
    """
    guard = guard_of(cache)
    if guard is None or is_empty(cache):
        return
    copied = guard.record is None or not guard.guards(cache)
    if copied or guard.compressed:
        raise compressed_elsewhere(copied=copied)
