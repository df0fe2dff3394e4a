"""One pass through a session's hooks at a time."""

from __future__ import annotations

import sys
import threading

from torch import nn

from lightkv.core.errors import SessionError


class OnePass:
    """Refuses a pass that starts in one thread while another thread is inside one.

    Passes may come from any thread (a streamer generates in its own), and whole generations may take
    turns pass by pass: what a pass leaves behind is kept with its cache.
    """

    def __init__(self) -> None:
        self._owner: tuple[int, nn.Module] | None = None
        self._lock = threading.Lock()

    def enter(self, module: nn.Module) -> None:
        """A pass begins in this thread, with the forward of `module`.

        Raises:
            SessionError: another thread is inside a pass.
        """
        me = threading.get_ident()
        with self._lock:
            owner = self._owner
            if owner is not None and owner[0] == me and _inside(*owner):
                return
            if owner is not None and owner[0] != me and _inside(*owner):
                raise SessionError(
                    "another thread is in the middle of a forward pass of this model, and the "
                    "session's hooks serve one pass at a time",
                    field="model",
                    value=type(module).__name__,
                    remedy="let one generate call finish before the next (a lock around generate), "
                    "or batch the requests",
                )
            self._owner = me, module

    def mine(self) -> bool:
        """Whether this thread is the one that is inside a pass."""
        with self._lock:
            return self._owner is not None and self._owner[0] == threading.get_ident()

    def leave(self, module: nn.Module) -> bool:
        """The forward of `module` ended in this thread, or raised; whether that ended the pass."""
        with self._lock:
            if self._owner is None or self._owner != (threading.get_ident(), module):
                return False
            self._owner = None
            return True


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
