"""A stage computes in the precision of what it is given: autocast is the model's, not the method's.

Under `torch.autocast` matrix products come back in half precision. Scores would then differ from those
of the same tensors without it, and a float32 table would meet a bfloat16 product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from lightkv.core.errors import NumericError


def has_values(tensor: torch.Tensor) -> bool:
    """Whether there is something to read: not on the meta device, nor in torch's fake mode."""
    return not tensor.is_meta and getattr(tensor, "fake_mode", None) is None


def check_finite(name: str, tensor: torch.Tensor | None) -> None:
    """Raise `NumericError` if a tensor holds NaN or infinity (skipped where none has values)."""
    if tensor is None or not has_values(tensor) or bool(torch.isfinite(tensor).all()):
        return
    bad = tensor[~torch.isfinite(tensor)]
    raise NumericError(
        f"{bad.numel()} of {tensor.numel()} values are NaN or infinite; merging would spread them",
        field=name,
        value=float(bad[0]),
        remedy="check the inputs and the dtype (float16 overflows where bfloat16 does not)",
    )


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
