"""The `forward` of one attention instance, wrapped for as long as a session lasts.

Hooks are not called when Ctrl-C ends a call, not even those that torch calls always. Only a `finally`
around the call leaves the module as it was, whatever happens.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.not_copyable import NotCopyable

AttentionReader = Callable[[torch.Tensor, torch.Tensor, float, dict[str, Any]], None]
"""Called with query, key, scaling and the call's other arguments."""
Own = Callable[..., Any]
"""A module's own forward."""


class AttentionTap(NotCopyable, ABC):
    """Shows query and key of one module's attention calls to those who ask for it.

    Attributes:
        unread: whether it is open and no attention call was shown yet.
    """

    def __init__(self, attention: nn.Module) -> None:
        self._attention = attention
        self._forward: _TappedForward | None = None
        self._pending: AttentionReader | None = None
        self.unread = False

    def install(self) -> None:
        """Wrap the instance's `forward`; its class is not touched."""
        self._forward = _TappedForward(self, self._attention)
        self._attention.forward = self._forward

    def remove(self) -> None:
        """Give the instance the `forward` that it had. Safe to call twice."""
        self.close()
        wrapped = self._forward
        self._forward = None
        if wrapped is None:
            return
        held = vars(self._attention)
        current: Any = held.get("forward")
        if current is wrapped:
            del held["forward"]
            held.update(wrapped.shadowed)
        # Somebody may hold it still: who wrapped the forward while the session lasted.
        wrapped.over = True

    def open(self, reader: AttentionReader) -> None:
        """The module's next attention call is to be shown to `reader`."""
        self._pending, self.unread = reader, True

    def close(self) -> None:
        """Nobody wants to read any more. Safe to call twice."""
        self._pending, self.unread = None, False

    def forward(self, own: Own, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module's forward."""
        reader, self._pending = self._pending, None
        return own(*args, **kwargs) if reader is None else self.run_read(reader, own, args, kwargs)

    @abstractmethod
    def run_read(
        self, reader: AttentionReader, own: Own, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The module's forward, its attention call shown to `reader`."""


class _TappedForward(NotCopyable):
    """What stands before the `forward` of an instance.

    Attributes:
        shadowed: the instance's own `forward`, if it had one (accelerate gives it one).
        over: whether the session has ended.
    """

    def __init__(self, tap: AttentionTap, attention: nn.Module) -> None:
        held = vars(attention)
        self.shadowed = {"forward": held["forward"]} if "forward" in held else {}
        self._tap, self._own = tap, attention.forward
        self.over = False
        functools.update_wrapper(self, self._own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.over:
            return self._own(*args, **kwargs)
        return self._tap.forward(self._own, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._own, memo) if self.over else super().__deepcopy__(memo)
