"""A true run without weights: a session on a model of the `meta` device, its FLOPs measured.

Tensors of that device have shapes and no values, so a prefill of any size takes a second and no
memory. torch's FlopCounterMode counts the matrix products of everything that runs, by the conventions
of `lightkv.core.cost.flops`: 2 for a multiply-add, and the full square of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.adapter import Adapter
from lightkv.core.run.engine import Engine
from lightkv.core.run.profile import Profiler
from lightkv.core.run.session import Session

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

HeldBytes = Iterable[int]
"""Bytes that the cache of each layer holds."""


@dataclass(frozen=True)
class Trace:
    """What one run did.

    Attributes:
        prefill_flops: matrix products of the model itself in the prefill.
        compression_flops: those of the stages; `role_flops` by role (`scoring`, `matching`,
            `aggregation`).
        decode_flops: of the first decode step.
        kv_bytes: bytes that each layer's cache holds after the prefill.
    """

    prefill_flops: int
    compression_flops: int
    role_flops: dict[str, int]
    decode_flops: int
    kv_bytes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "kv_bytes": list(self.kv_bytes)}


class FlopProfiler(Profiler):
    """Collects FLOPs by role in place of times."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(enabled=False)
        self.counter = counter
        self.flops: dict[str, int] = {}

    @contextmanager
    def timer(self, role: str) -> Iterator[None]:
        """Add the FLOPs of the block to a role."""
        before = self.counter.get_total_flops()
        yield
        done = self.counter.get_total_flops() - before
        self.flops[role] = self.flops.get(role, 0) + done


def trace(
    model: nn.Module,
    adapter: Adapter,
    pipeline: Pipeline | None,
    shape: DecoderShape,
    layout: VisionLayout,
    forward: Callable[[int, Any], tuple[Any, HeldBytes]],
) -> Trace:
    """Run a prefill and one decode step, compressed by a pipeline, and measure them.

    Args:
        model: on the `meta` device (any other works too, and takes its time).
        adapter: serves the model, and takes the layout that the caller gives.
        pipeline: built for the model's depth; None runs it uncompressed.
        shape: sizes of the decoder.
        layout: of the prompt, one row.
        forward: (tokens, cache or None) → (cache, bytes that each of its layers holds): a forward pass
            with logits for the last token only.

    Raises:
        LightKVError: the session cannot run on this model; nothing is left attached to it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    profiler = FlopProfiler(counter)
    session = None
    if pipeline is not None:
        engine = Engine(pipeline, shape)
        engine.profiler = profiler
        session = Session(model, pipeline, adapter, engine, layout).attach()
    try:
        with torch.no_grad(), counter:
            cache, held = forward(layout.length, None)
            kv_bytes = tuple(held)
            prefill = counter.get_total_flops()
            forward(1, cache)
            decode = counter.get_total_flops() - prefill
    finally:
        if session is not None:
            session.detach()
    compression = sum(profiler.flops.values())
    return Trace(prefill - compression, compression, profiler.flops, decode, kv_bytes)
