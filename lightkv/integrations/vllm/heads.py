"""The processes of a tensor-parallel engine as a head group."""

from __future__ import annotations

import torch
from vllm.distributed.parallel_state import get_tp_group

from lightkv.core.heads import HeadGroup


class EngineHeads(HeadGroup):
    """The ranks that share the attention heads of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self._group = get_tp_group()
        self.size, self.rank = self._group.world_size, self._group.rank_in_group

    def all_reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:  # type: ignore[override]
        reduced = values.contiguous().clone()
        operation = (
            torch.distributed.ReduceOp.SUM if how == "sum" else torch.distributed.ReduceOp.MAX
        )
        torch.distributed.all_reduce(reduced, operation, group=self._group.device_group)
        return reduced

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        told = values.contiguous().clone()
        torch.distributed.broadcast(told, self._group.ranks[0], group=self._group.device_group)
        return told

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous(), group=self._group.device_group)
        return parts


def head_group() -> HeadGroup:
    """The group of this process, or one that holds all heads."""
    return EngineHeads() if get_tp_group().world_size > 1 else HeadGroup()
