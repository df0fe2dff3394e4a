"""What a vision encoder made of pixels, kept for the next time that the lab shows it the same ones.

All cells of a grid ask about the same pictures, and each picture is asked about several times, so the
same pixels are encoded over and over: on small models that is a third of the time. What they become
depends on no pipeline. Only answers and counts may come from kept encodings; times never do.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from lightkv.adapters.hf.family import Family
from lightkv.core.needs import Source, needs_from
from lightkv.core.run.session import Session

LIMIT = 2**30
"""Bytes that one process keeps."""
_MISSING = object()


class Encodings:
    """Outputs of a model's vision towers by their inputs, bit for bit.

    Whole batches are kept, and pictures are never put together from several: what a tower makes of one
    may differ in its last bits with the others beside it. Nothing is thrown out when the bound is
    reached, because cells go through the samples in turns: of a little less than all, the oldest part
    would always be the one that comes next.

    Args:
        limit: bytes to keep.

    Attributes:
        made, reused: batches that a tower encoded, and that it was spared.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Let go of everything: other pictures come."""
        self.made = self.reused = self._bytes = 0
        self._kept: dict[str, Any] = {}

    @contextmanager
    def within(self, session: Session) -> Iterator[None]:
        """While it lasts, the towers of an attached session's model encode no batch twice.

        Does nothing where the pipeline reads the encoder, which must run to be read, nor on a GPU, whose
        memory is the model's.
        """
        with ExitStack() as stack:
            for number, tower in enumerate(_towers(session)):
                stack.enter_context(self._kept_of(number, tower))
            yield

    @contextmanager
    def _kept_of(self, number: int, tower: nn.Module) -> Iterator[None]:
        """One tower of this model; its hooks run as ever, and its class is not touched."""
        encode, own = tower.forward, vars(tower).get("forward", _MISSING)

        @functools.wraps(encode)
        def forward(*args: Any, **kwargs: Any) -> Any:
            key = _digest(number, args, kwargs)
            if key in self._kept:
                self.reused += 1
                return _copy(self._kept[key])
            made = encode(*args, **kwargs)
            self.made += 1
            if key is not None:
                self._keep(key, made)
            return made

        tower.forward = forward
        try:
            yield
        finally:
            del tower.forward
            if own is not _MISSING:
                tower.forward = own

    def _keep(self, key: str, made: Any) -> None:
        parts = [each for each in tree_flatten(made)[0] if each is not None]
        if not all(isinstance(each, torch.Tensor) and not each.requires_grad for each in parts):
            return
        size = sum(each.nbytes for each in parts)
        if self._bytes + size <= self.limit:
            self._kept[key] = _copy(made)
            self._bytes += size


def _towers(session: Session) -> Sequence[nn.Module]:
    """What encodes pixels, where it may be spared it."""
    adapter, model, pipeline = session.adapter, session.model, session.pipeline
    read = any(needs_from(placed.stage.needs, Source.ENCODER) for placed in pipeline.stages)
    device = next(model.parameters()).device
    if read or model.training or device.type != "cpu" or not isinstance(adapter, Family):
        return ()
    return adapter.vision_modules(model)


def _digest(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Of all arguments of a tower; None if one of them is not known by its value."""
    found = hashlib.sha256(str(number).encode())
    values, form = tree_flatten((args, kwargs))
    found.update(repr(form).encode())
    for value in values:
        if isinstance(value, torch.Tensor):
            found.update(repr((tuple(value.shape), value.dtype)).encode())
            found.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())
        elif value is None or isinstance(value, bool | int | float | str):
            found.update(repr(value).encode())
        else:
            return None
    return found.hexdigest()


def _copy(made: Any) -> Any:
    """The same values in tensors of their own: who receives them may write to them."""
    return tree_map(lambda each: each.clone() if isinstance(each, torch.Tensor) else each, made)
