"""Tensor parallelism: which processes share the attention heads of a decoder.

Read off the weights: transformers (`tp_plan`) and torch (`parallelize_module`) both keep the sharded
weights of an attention module as DTensors, which know their process group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import distributed, nn

from lightkv.core.errors import ModelError
from lightkv.core.heads import HeadGroup


class ProcessHeads(HeadGroup):
    """Heads spread over the processes of a torch process group."""

    def __init__(self, group: Any) -> None:
        super().__init__()
        self.size = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)
        self._group = group

    def all_reduce(self, values: torch.Tensor, how: Literal["sum", "max"]) -> torch.Tensor:
        operation = distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX
        out = values.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(out, operation, group=self._group)
        return out

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        out = values.detach().clone(memory_format=torch.contiguous_format)
        first = distributed.get_global_rank(self._group, 0)
        distributed.broadcast(out, first, group=self._group)
        return out

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        own = values.detach().contiguous()
        out = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(out, own, group=self._group)
        return out


def head_group(model: nn.Module, attentions: Iterable[nn.Module]) -> HeadGroup:
    """The processes that share the heads of these attention modules.

    Raises:
        ModelError: layers that are spread in another way than by heads.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return HeadGroup()
    _refuse_other_axes(model)
    for attention in attentions:
        for parameter in attention.parameters():
            group = _sharding_group(parameter)
            if group is not None:
                return ProcessHeads(group)
    return HeadGroup()


def _sharding_group(parameter: nn.Parameter) -> Any:
    """Process group over which a weight is cut, None if every process holds all of it."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return None
    for axis, placement in enumerate(parameter.placements):
        if not placement.is_replicate() and parameter.device_mesh.size(axis) > 1:
            return parameter.device_mesh.get_group(axis)
    return None


def _refuse_other_axes(model: nn.Module) -> None:
    config = getattr(getattr(model, "config", None), "distributed_config", None)
    if getattr(config, "pp_size", 1) > 1:
        raise ModelError(
            "the decoder's layers are spread over processes, and a stage must reach all later ones",
            field="distributed_config.pp_size",
            value=config.pp_size,  # type: ignore[union-attr]
            remedy="use tensor parallelism (tp_size), or device_map in one process",
        )
    plan: Any = getattr(model, "_tp_plan", None) or {}
    if getattr(config, "tp_size", 1) > 1 and "sequence_parallel" in plan.values():
        raise ModelError(
            "the tokens of the sequence are spread over processes, and a stage must see all of them",
            field="tp_plan",
            value="sequence_parallel",
            remedy="use a plan that spreads heads only, such as tp_plan='auto'",
        )
