"""Live bytes of tensors during a block, counted at the dispatcher: works on CPU, exact, repeatable."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations create while the mode is on.

    Attributes:
        peak: largest sum of bytes alive at once among storages created inside.
        largest: bytes and shape of the largest single storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.largest: tuple[int, tuple[int, ...]] = (0, ())
        self._known: set[int] = set()

    def hold(self, *tensors: torch.Tensor) -> LiveBytes:
        """Storages that exist already and must not be counted."""
        for tensor in tensors:
            self._known.add(tensor.untyped_storage()._cdata)
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        if size > self.largest[0]:
            self.largest = (size, tuple(tensor.shape))
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.live -= size
        self._known.discard(key)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)
