"""The processes of a tensor-parallel engine as a head group."""

from __future__ import annotations

from vllm.distributed.parallel_state import get_tp_group

from lightkv.adapters.hf.tensor_parallel import ProcessHeads
from lightkv.core.heads import HeadGroup


def head_group() -> HeadGroup:
    """The group of this process, or one that holds all heads."""
    group = get_tp_group()
    return ProcessHeads(group.device_group) if group.world_size > 1 else HeadGroup()
