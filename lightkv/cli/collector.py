"""The garbage collector of commands that last as long as their imports."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000
"""New containers between two looks; Python's own 700 cost `lightkv plan` a seventh of its time."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cycles of garbage rarely, then as often as before; also a decorator.

    Imports of torch and transformers make a thousand such looks, and leave hardly any garbage. Not for
    commands that run models: a cycle may hold tensors, whose memory should be free soon.
    """
    youngest, *older = gc.get_threshold()
    gc.set_threshold(max(youngest, ALLOCATIONS) if youngest else 0, *older)
    try:
        yield
    finally:
        gc.set_threshold(youngest, *older)
