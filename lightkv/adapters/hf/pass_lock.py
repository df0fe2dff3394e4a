"""One pass through a session's hooks at a time; the others wait for their turn."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

ASK_AGAIN = 0.05
"""Seconds after which a waiting thread looks whether the pass that it waits for was interrupted."""


class PassLock:
    """Lets one thread at a time through the hooks; a thread that comes meanwhile waits.

    A pass lasts from the pre-hook of the outermost module that was called to its end. Passes may come
    from any thread (a streamer generates in its own), and whole generations may take turns pass by
    pass: what a pass leaves behind is kept with its cache.
    """

    def __init__(self) -> None:
        self._owner: tuple[int, nn.Module] | None = None
        self._turn = threading.Condition()
        # First come, first served: a thread that has just left would else be the first to come back.
        self._queue: deque[object] = deque()

    def enter(self, module: nn.Module) -> None:
        """A pass begins in this thread, with the forward of `module`; waits while another runs."""
        me, ticket = threading.get_ident(), object()
        with self._turn:
            if self._owner is not None and self._owner[0] == me and _inside(*self._owner):
                return
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._busy():
                    self._turn.wait(ASK_AGAIN)
                self._owner = me, module
            finally:
                self._queue.remove(ticket)
                self._turn.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for the pass of another thread to end; none begins in the block."""
        with self._turn:
            while self._busy():
                self._turn.wait(ASK_AGAIN)
            yield

    def _busy(self) -> bool:
        """Whether another thread is inside a pass."""
        if self._owner is None or self._owner[0] == threading.get_ident():
            return False
        return _inside(*self._owner)

    def was_interrupted(self) -> bool:
        """Whether a pass of this thread ended without a word (Ctrl-C); told once."""
        me = threading.get_ident()
        with self._turn:
            if self._owner is None or self._owner[0] != me or _inside(*self._owner):
                return False
            self._owner = None
            return True

    def mine(self) -> bool:
        """Whether this thread is the one that is inside a pass."""
        with self._turn:
            return self._owner is not None and self._owner[0] == threading.get_ident()

    def leave(self, module: nn.Module) -> None:
        """The forward of `module` ended in this thread, or raised; the pass ends if it began with it."""
        with self._turn:
            if self._owner == (threading.get_ident(), module):
                self._owner = None
                self._turn.notify_all()


def _inside(thread: int, module: nn.Module) -> bool:
    """Whether a thread is calling `module` right now.

    Asked because a pass that Ctrl-C ended never told us that it left.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            return True
        frame = frame.f_back
    return False
