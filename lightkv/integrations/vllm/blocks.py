"""KV blocks of vLLM that a request takes under a pipeline: counted exactly, without vLLM.

A *segment* is a run of decoder layers between two stages: its layers hold the same tokens, so they
share block tables. Tokens come from the same plans as a run's (`PlacedStage.planned`). Of n generated
tokens the prefill gives the first, so a request ends with prompt + n − 1 tokens in its cache.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, check_least
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.groups import Grouping, group_layers

__all__ = ["BlockSavings", "RequestBlocks", "count_blocks", "segment_tokens", "segments_of"]


def segments_of(pipeline: Pipeline) -> tuple[tuple[int, ...], ...]:
    """Layers of each segment; a single segment where no stage removes anything.

    A stage before the first layer ends no segment, as no layer holds what it removes.

    Raises:
        ConfigError: a stage on the cache.
    """
    if pipeline.on_cache is not None:
        raise ConfigError(
            "vLLM's cache is not compressed once it is written, only what is written",
            field=f"schedule[{pipeline.on_cache.number}].site",
            value="cache",
            remedy="use a strategy whose stages act between layers",
        )
    cuts = sorted({0, *pipeline.between, pipeline.num_layers})
    return tuple(tuple(range(first, end)) for first, end in itertools.pairwise(cuts))


def segment_tokens(pipeline: Pipeline, layout: VisionLayout) -> tuple[int, ...]:
    """Prompt tokens that each segment holds of a prompt laid out as `layout` (one sample).

    Raises:
        ConfigError: a stage on the cache, or windows that do not fit the grid.
    """
    held = []
    for layers in segments_of(pipeline):
        if layers[0] in pipeline.between:
            (step,) = pipeline.between[layers[0]].planned(layout)
            if step.plan.removes:
                layout = step.after()
        held.append(layout.length - layout.pads[0])
    return tuple(held)


@dataclass(frozen=True)
class RequestBlocks:
    """Blocks of one request.

    Attributes:
        grouping: groups of the decoder's layers.
        tokens: prompt tokens that each segment holds.
        new_tokens: generated tokens.
        block_size: tokens of a block.
        kv_bytes_per_token: key and value of a token in one layer, in one process.
    """

    grouping: Grouping
    tokens: tuple[int, ...]
    new_tokens: int
    block_size: int
    kv_bytes_per_token: int

    @property
    def prompt_blocks(self) -> tuple[int, ...]:
        """Of each group, after the prefill."""
        return self._blocks(0)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Of each group, after the last token."""
        return self._blocks(self.new_tokens - 1)

    @property
    def page_bytes(self) -> int:
        """Bytes of a block: all layers that it has room for, padding layers included."""
        return self.block_size * self.grouping.size * self.kv_bytes_per_token

    @property
    def kv_bytes(self) -> int:
        """Bytes of all blocks after the last token."""
        return sum(self.blocks) * self.page_bytes

    def requests_under(self, kv_bytes: int) -> int:
        """Such requests whose last tokens fit into a cache of `kv_bytes` at once.

        One block of the pool is vLLM's own (its null block).
        """
        pool = kv_bytes // self.page_bytes - 1
        return max(0, pool) // sum(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        each = zip(self.grouping.groups, self.prompt_blocks, self.blocks, strict=True)
        return {
            "group_size": self.grouping.size,
            "padding_layers": self.grouping.padding,
            "page_bytes": self.page_bytes,
            "blocks": sum(self.blocks),
            "kv_bytes": self.kv_bytes,
            "groups": [
                {
                    "segment": group.segment,
                    "layers": list(group.layers),
                    "padding_layers": group.padding,
                    "prompt_tokens": self.tokens[group.segment],
                    "prompt_blocks": first,
                    "blocks": last,
                }
                for group, first, last in each
            ],
        }

    def _blocks(self, generated: int) -> tuple[int, ...]:
        held = (self.tokens[group.segment] + generated for group in self.grouping.groups)
        return tuple(-(-tokens // self.block_size) for tokens in held)


@dataclass(frozen=True)
class BlockSavings:
    """Blocks of one request without and with a pipeline."""

    vanilla: RequestBlocks
    compressed: RequestBlocks

    @property
    def ratio(self) -> float:
        """Bytes of the blocks with the pipeline, over those without."""
        return self.compressed.kv_bytes / self.vanilla.kv_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "block_size": self.vanilla.block_size,
            "ratio": self.ratio,
            "vanilla": self.vanilla.to_dict(),
            "compressed": self.compressed.to_dict(),
        }


def count_blocks(
    pipeline: Pipeline,
    shape: DecoderShape,
    layout: VisionLayout,
    *,
    block_size: int,
    new_tokens: int = 1,
) -> BlockSavings:
    """Blocks of a prompt laid out as `layout` (one sample) with and without a pipeline.

    Args:
        pipeline: built for the depth of `shape`.
        shape: sizes of the decoder.
        layout: one row; its length fixes the number of text tokens.
        block_size: tokens of a block.
        new_tokens: generated tokens, at least 1.

    Raises:
        ConfigError: a stage on the cache, windows that do not fit the grid, layers that slide, a block
            or an answer without tokens.
    """
    check_least("block_size", block_size)
    check_least("new_tokens", new_tokens)
    if any(window is not None for window in shape.windows):
        raise ConfigError(
            "blocks are counted for decoders whose layers all attend to the whole prompt",
            field="windows",
            value=next(window for window in shape.windows if window is not None),
            remedy="use a model without sliding windows",
        )
    layers = tuple(range(shape.num_layers))
    common = (new_tokens, block_size, shape.kv_bytes_per_token)
    whole = layout.length - layout.pads[0]
    return BlockSavings(
        RequestBlocks(group_layers([layers]), (whole,), *common),
        RequestBlocks(
            group_layers(segments_of(pipeline)), segment_tokens(pipeline, layout), *common
        ),
    )
