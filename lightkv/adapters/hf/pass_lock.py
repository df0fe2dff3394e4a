"""One pass through a session's hooks at a time; the others wait for their turn."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from torch import nn

ASK_AGAIN = 0.05
"""Seconds after which a waiting thread looks whether the pass that it waits for was interrupted."""


@dataclass(frozen=True)
class _Pass:
    """Who is inside, with which module, and the call of it on that thread's stack."""

    thread: int
    module: nn.Module
    call: FrameType | None

    def running(self) -> bool:
        """Whether the call has not ended yet.

        Asked because a pass that Ctrl-C ended never told us that it left. Python clears only frames
        that have ended, and says so of the others. Nobody else's stack is looked at: Python 3.11 takes
        a lock of the interpreter for that, under which a garbage collection may wait for ever.
        """
        if self.call is None:
            return False
        try:
            self.call.clear()
        except RuntimeError:
            return True
        return False


class PassLock:
    """Lets one thread at a time through the hooks; a thread that comes meanwhile waits.

    A pass lasts from the pre-hook of the outermost module that was called to its end. Passes may come
    from any thread (a streamer generates in its own), and whole generations may take turns pass by
    pass: what a pass leaves behind is kept with its cache.
    """

    def __init__(self) -> None:
        self._owner: _Pass | None = None
        self._turn = threading.Condition()
        # First come, first served: a thread that has just left would else be the first to come back.
        self._queue: deque[object] = deque()

    def enter(self, module: nn.Module) -> None:
        """A pass begins in this thread, with the forward of `module`; waits while another runs."""
        me, ticket = threading.get_ident(), object()
        with self._turn:
            if self._owner is not None and self._owner.thread == me and self._owner.running():
                return
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._busy():
                    self._turn.wait(ASK_AGAIN)
                self._owner = _Pass(me, module, _call_of(module))
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
        if self._owner is None or self._owner.thread == threading.get_ident():
            return False
        return self._owner.running()

    def was_interrupted(self) -> bool:
        """Whether a pass of this thread ended without a word (Ctrl-C); told once."""
        me = threading.get_ident()
        with self._turn:
            if self._owner is None or self._owner.thread != me or self._owner.running():
                return False
            self._owner = None
            return True

    def mine(self) -> bool:
        """Whether this thread is the one that is inside a pass."""
        with self._turn:
            return self._owner is not None and self._owner.thread == threading.get_ident()

    def leave(self, module: nn.Module) -> None:
        """The forward of `module` ended in this thread, or raised; the pass ends if it began with it."""
        with self._turn:
            owner = self._owner
            if owner and owner.thread == threading.get_ident() and owner.module is module:
                self._owner = None
                self._turn.notify_all()


def _call_of(module: nn.Module) -> FrameType | None:
    """The frame in which this thread is calling `module`, whose hooks are running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            return frame
        frame = frame.f_back
    return None
