"""The garbage collector of commands that last as long as their imports."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 1_000_000
"""New containers between two looks; Python's own 700 cost `lightkv plan` a fifth of its time."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cycles of garbage rarely, then as often as before; also a decorator.

    Imports of torch and transformers make a thousand such looks, and leave hardly any garbage. The last
    look of all, when the process ends, took a quarter of its time, and is left out. Not for commands
    that run models, where a cycle may hold tensors, whose memory should be free soon, or open files.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    youngest, *older = gc.get_threshold()
    gc.set_threshold(max(youngest, ALLOCATIONS) if youngest else 0, *older)
    try:
        yield
    finally:
        gc.set_threshold(youngest, *older)
