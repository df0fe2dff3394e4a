"""A stage computes in the precision of what it is given: autocast is the model's, not the method's.

Under `torch.autocast` matrix products come back in half precision. Scores would then differ from those
of the same tensors without it, and a float32 table would meet a bfloat16 product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

KINDS = ("cpu", "cuda", "xpu", "mps")
"""Kinds of device that have autocast."""


@contextmanager
def exact() -> Iterator[None]:
    """A block, or with `@exact()` a function, in which autocast is off on every kind of device."""
    with ExitStack() as stack:
        for kind in KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def as_here(call: Callable[[torch.Tensor], T]) -> Callable[[torch.Tensor], T]:
    """`call` under the autocast of the place where this is written, wherever it is called.

    For a module of the model (its projector) that a stage runs.
    """
    state = {
        kind: torch.get_autocast_dtype(kind) for kind in KINDS if torch.is_autocast_enabled(kind)
    }
    if not state:
        return call

    def under(values: torch.Tensor) -> T:
        with ExitStack() as stack:
            for kind, dtype in state.items():
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            return call(values)

    return under
