"""The attention of a segment: metadata that count what it holds, and a look at queries and keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from vllm.v1.attention.backend import AttentionCGSupport, subclass_attention_backend

from lightkv.core.transfer import to_device
from lightkv.integrations.vllm.cache import SegmentSpec
from lightkv.integrations.vllm.step import Step


class Steps:
    """Where the runner leaves the step that runs, and the attention of each segment finds it."""

    def __init__(self) -> None:
        self.current: Step | None = None


def segment_backend(underlying: Any, steps: Steps) -> Any:
    """The attention backend with a metadata builder that counts the tokens of its segment."""
    builder = underlying.get_builder_cls()

    class SegmentBuilder(builder):  # type: ignore[valid-type, misc]
        lengths: torch.Tensor | None = None

        @classmethod
        def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> AttentionCGSupport:
            """Whole graphs for decoding only: a step that compresses has shapes of its own."""
            theirs = super().get_cudagraph_support(vllm_config, kv_cache_spec)
            return min(theirs, AttentionCGSupport.UNIFORM_BATCH, key=lambda support: support.value)

        def build(
            self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
        ) -> Any:
            spec = self.kv_cache_spec
            if isinstance(spec, SegmentSpec) and spec.segment:
                common_attn_metadata = self._counted(spec.segment, common_attn_metadata)
            return super().build(common_prefix_len, common_attn_metadata, fast_build)

        def _counted(self, segment: int, common: Any) -> Any:
            """The metadata of the batch with lengths of the segment, at an address that stays.

            A captured graph reads the lengths where they were when it was captured.
            """
            if self.lengths is None or self.lengths.numel() < common.seq_lens.numel():
                most = self.vllm_config.scheduler_config.max_num_seqs
                size = max(most, common.seq_lens.numel())
                self.lengths = common.seq_lens.new_zeros(size)
            lengths = self.lengths[: common.seq_lens.numel()]
            counted, step = copy.copy(common), steps.current
            counted.seq_lens = lengths
            if step is None:
                lengths.copy_(common.seq_lens)
                return counted
            return _of_segment(step, segment, counted)

    return subclass_attention_backend("LightKV", underlying, SegmentBuilder)


def _of_segment(step: Step, segment: int, common: Any) -> Any:
    held, device = step.held(segment), common.seq_lens.device
    rows, padded = len(held), common.seq_lens.numel()
    host = np.zeros(padded, dtype=np.int32)
    host[:rows] = held
    lengths = torch.from_numpy(host)
    common.seq_lens.copy_(lengths, non_blocking=True)
    common.seq_lens_cpu_upper_bound = lengths
    common.max_seq_len = int(held.max())
    # Positions are those of the prompt; no builder may take them for places in the cache.
    common.positions = None
    # What another segment's builder worked out of its own lengths is passed along with them.
    common._num_computed_tokens_cache = None
    if step.compressing:
        common._token_to_req_indices_cache = None
        new = step.new(segment)
        starts = np.full(padded + 1, new.sum(), dtype=np.int32)
        starts[: rows + 1] = np.concatenate([[0], np.cumsum(new)])
        common.query_start_loc_cpu = torch.from_numpy(starts)
        common.query_start_loc = to_device(common.query_start_loc_cpu, device)
        common.num_actual_tokens = int(new.sum())
        common.max_query_len = int(new.max())
        common.slot_mapping = common.slot_mapping[: common.num_actual_tokens]
    return common


@contextmanager
def queries_and_keys(attention: nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """What an attention layer is given while the block runs: query and key, after rotary embedding."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append((args[0], args[1]))

    handle = attention.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
