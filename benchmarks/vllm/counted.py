"""What a setting should save on the dummy model: blocks and FLOPs, counted without running it."""

from __future__ import annotations

from dataclasses import dataclass

from dummy import LAYERS, shape

from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.blocks import RequestBlocks, count_blocks
from lightkv.integrations.vllm.schedules import serving_pipeline

BLOCK_SIZE = 32
PRESET = "lightkv"


@dataclass(frozen=True)
class Counted:
    """Of one request, against the same without compression.

    Attributes:
        kv_bytes: bytes of its blocks after the last token.
        vanilla_kv_bytes: the same uncompressed.
        page_bytes: bytes of one block.
        blocks: blocks of each group of layers.
        fitting: such requests that fit into the cache at once.
        flops_ratio: FLOPs of the decoder's prefill, compression included, over those uncompressed.
    """

    kv_bytes: int
    vanilla_kv_bytes: int
    page_bytes: int
    blocks: tuple[int, ...]
    fitting: int
    flops_ratio: float

    @property
    def block_ratio(self) -> float:
        """How many times as many requests the same bytes hold."""
        return self.vanilla_kv_bytes / self.kv_bytes


def pool_bytes(side: int, text: int, new_tokens: int, value_bytes: int, requests: int) -> int:
    """A cache that holds `requests` uncompressed requests until their last token, and no more."""
    each = _blocks(None, side, text, new_tokens, value_bytes)[0]
    return requests * each.kv_bytes + each.page_bytes  # vLLM keeps one block for itself


def count(
    retention: float | None, side: int, text: int, new_tokens: int, value_bytes: int, pool: int
) -> Counted:
    """Expectations of one setting.

    Args:
        retention: None for no compression.
        side: of the grid of vision tokens.
        text: other tokens of the prompt.
        new_tokens: generated tokens.
        value_bytes: of a cached number.
        pool: bytes of the cache.
    """
    vanilla, compressed = _blocks(retention, side, text, new_tokens, value_bytes)
    flops_ratio = 1.0
    if retention is not None:
        layout = prompt_layout([ViewSize((1, side, side))], text)
        costs = count_savings(_pipeline(retention), shape(value_bytes), layout, new_tokens)
        after = costs.compressed.prefill_flops + costs.compressed.compression_flops
        flops_ratio = after / costs.vanilla.prefill_flops
    return Counted(
        kv_bytes=compressed.kv_bytes,
        vanilla_kv_bytes=vanilla.kv_bytes,
        page_bytes=compressed.page_bytes,
        blocks=compressed.blocks,
        fitting=compressed.requests_under(pool),
        flops_ratio=flops_ratio,
    )


def _pipeline(retention: float) -> Pipeline:
    return serving_pipeline(PRESET, LAYERS, block_size=BLOCK_SIZE, retention=retention)


def _blocks(
    retention: float | None, side: int, text: int, new_tokens: int, value_bytes: int
) -> tuple[RequestBlocks, RequestBlocks]:
    """Blocks without and with compression; twice the same for None."""
    saved = count_blocks(
        _pipeline(retention or 0.55),
        shape(value_bytes),
        prompt_layout([ViewSize((1, side, side))], text),
        block_size=BLOCK_SIZE,
        new_tokens=new_tokens,
    )
    return saved.vanilla, saved.vanilla if retention is None else saved.compressed
