"""The KV cache of a segment: a spec of its own, so a group of its own, and a manager that counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec, replace_as
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from lightkv.core.errors import ModelError
from lightkv.integrations.vllm.plan import Entry


@dataclass(frozen=True, kw_only=True)
class SegmentSpec(FullAttentionSpec):
    """Full attention over the tokens that a segment of decoder layers holds.

    Attributes:
        segment: its number.
        plan: digest of the worker's plan, for the scheduler to compare with its own.
    """

    segment: int = 0
    plan: str = ""

    @classmethod
    def of(cls, spec: KVCacheSpec, segment: int, plan: str) -> SegmentSpec:
        """The spec of a layer, as one of a segment.

        Raises:
            ModelError: a layer that does not see all that came before, as in sliding windows: the
                engine's kernels count a window by places in the cache, where tokens are missing.
        """
        whole = type(spec) is FullAttentionSpec and not (
            spec.sliding_window or spec.attention_chunk_size or spec.non_causal
        )
        if not whole:
            raise ModelError(
                "layers that see a part of the prompt only are not mapped in vLLM",
                field="model.config.text_config",
                value=type(spec).__name__,
                remedy="serve a model whose layers all see the whole prompt, or run this one with "
                "transformers and lightkv.compress",
            )
        return replace_as(spec, cls, segment=segment, plan=plan)

    @property
    def prefix_cacheable(self) -> bool:
        """Never: which tokens survive depends on the question behind them."""
        return False

    @classmethod
    def merge(cls, specs: list[SegmentSpec]) -> SegmentSpec:  # type: ignore[override]
        """One spec for the layers of a segment; layers of different segments do not merge."""
        assert all(spec == specs[0] for spec in specs), "layers of a group are of one segment"
        return copy.deepcopy(specs[0])

    def is_uniform_with_collection(self, kv_cache_specs: dict[str, KVCacheSpec]) -> bool:
        """Whether all layers are of this segment."""
        return all(
            isinstance(spec, SegmentSpec) and spec.segment == self.segment
            for spec in kv_cache_specs.values()
        )


class SegmentManager(FullAttentionManager):
    """Gives out blocks for the tokens that the segment holds, not for those of the prompt."""

    entries: Mapping[str, Entry] = {}
    """Request → what is known of it; the scheduler's own mapping."""

    def tokens(self, request_id: str, count: int) -> int:
        """Entries of the segment for the first `count` tokens of a request."""
        entry = self.entries.get(request_id)
        return count if entry is None else entry.tokens(self.kv_cache_spec.segment, count)

    def get_num_blocks_to_allocate(  # type: ignore[override]
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Any,
        total_computed_tokens: int,
        num_local_computed_tokens: int,
        num_tokens_main_model: int,
        **others: Any,
    ) -> int:
        return super().get_num_blocks_to_allocate(
            request_id,
            self.tokens(request_id, num_tokens),
            new_computed_blocks,
            total_computed_tokens,
            num_local_computed_tokens,
            self.tokens(request_id, num_tokens_main_model),
            **others,
        )

    def allocate_new_blocks(
        self, request_id: str, num_tokens: int, num_tokens_main_model: int
    ) -> list[Any]:
        return super().allocate_new_blocks(
            request_id,
            self.tokens(request_id, num_tokens),
            self.tokens(request_id, num_tokens_main_model),
        )


def register() -> None:
    """Tell vLLM which manager serves the spec."""
    # Its own specs are registered at the first question, unless one is there already.
    KVCacheSpecRegistry._ensure_registered()
    KVCacheSpecRegistry.register(SegmentSpec, SegmentManager, uniform_type_base_spec=SegmentSpec)


register()
