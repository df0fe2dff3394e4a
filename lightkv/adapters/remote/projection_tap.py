"""Query and key of attention modules that call no attention interface, and their rotary tables.

Modelling code written for transformers 4 projects, asks its own `rotary_emb(x, seq_len)` for tables
of cosines and sines, picks their rows by `position_ids` and attends, all in one forward. Hooks on
the projections and on `rotary_emb` see everything that is needed; nothing is computed twice but the
rotation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.attention_tap import AttentionReader, AttentionTap, Own
from lightkv.adapters.hf.inputs import bind
from lightkv.core.errors import ModelError

Split = Callable[[nn.Module, Sequence[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]
"""Attention module and outputs of its projections → query `[B, H, N, d]`, key `[B, Hₖᵥ, N, d]`."""


class ProjectionTap(AttentionTap):
    """The tap of a module that projects, rotates and attends in one forward.

    Args:
        attention: with `rotary_emb`; called with `position_ids` and `past_key_value`.
        projections: its modules whose outputs hold query and key.
        split: takes query and key, still without rotation, out of those outputs.

    Attributes:
        unread: whether it is open and no attention call was shown yet.
    """

    def __init__(
        self, attention: nn.Module, projections: Sequence[nn.Module], split: Split
    ) -> None:
        super().__init__(attention)
        self._projections = projections
        self._split = split
        self._call: dict[str, Any] = {}
        self._outputs: dict[int, torch.Tensor] = {}

    def run_read(
        self, reader: AttentionReader, own: Own, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._call, self._outputs = bind(self._attention, args, kwargs), {}
        handles: list[Any] = []
        try:
            for number, module in enumerate(self._projections):
                handles.append(module.register_forward_hook(partial(self._projected, number)))
            rotary: Any = self._attention.rotary_emb
            handles.append(rotary.register_forward_hook(partial(self._show, reader)))
            return own(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            self._call, self._outputs = {}, {}

    def _projected(self, number: int, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        self._outputs[number] = output

    def _show(self, reader: AttentionReader, module: nn.Module, args: Any, tables: Any) -> None:
        if len(self._outputs) < len(self._projections):
            raise ModelError(
                f"{type(self._attention).__name__} asked for rotary tables before its projections "
                "ran as modules (sliced weights of tensor parallelism do that)",
                field="model",
                remedy="load it with config.pretraining_tp = 1, or use a strategy that reads no "
                "attention (scorer='uniform')",
            )
        with torch.no_grad():
            outputs = [self._outputs[number] for number in range(len(self._projections))]
            query, key = self._split(self._attention, outputs)
            cos, sin = table_rows(tables, self._call["position_ids"])
            query, key = rotated(query, cos, sin), rotated(key, cos, sin)
            past = self._call.get("past_key_value")
            if past is not None:
                key = torch.cat([past[0], key], dim=2)
            mask = self._call.get("attention_mask")
            self.unread = False
            reader(query, key, query.shape[-1] ** -0.5, {"attention_mask": mask})
        self._outputs = {}


def table_rows(tables: Any, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of (cos, sin), each `[S, d]`, as `[B, 1, N, d]`."""
    cos, sin = (table[position_ids][:, None] for table in tables)
    return cos, sin


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`[B, H, N, d]` turned by tables `[B, 1, N, d]`; channel j pairs with j + d/2 (Llama)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def tables_at(tables: Any, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Tables whose row b · N + n is the rotation at `positions[b, n]`, which may be a fraction.

    The row before a position is turned on by the fraction of one step. The angle of a step is read
    off row 1, so no base, scaling or frequency has to be known.

    Args:
        tables: (cos, sin), each `[S, d]`, row p the rotation at p.
        positions: `[B, N]`.
    """
    cos, sin = (table.float() for table in tables)
    places = positions.flatten()
    whole = places.floor() if places.is_floating_point() else places
    row = whole.long()
    base_cos, base_sin = cos[row], sin[row]
    if places.is_floating_point():
        step = torch.atan2(sin[1], cos[1])
        angle = (places - whole).float()[:, None] * step
        part_cos, part_sin = angle.cos(), angle.sin()
        turned = base_cos * part_cos - base_sin * part_sin
        base_sin = base_sin * part_cos + base_cos * part_sin
        base_cos = turned
    return base_cos.to(tables[0].dtype), base_sin.to(tables[1].dtype)
