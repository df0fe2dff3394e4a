"""`lightkv plan --engine vllm`: blocks of the engine that a request takes, and requests in a cache."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from lightkv.cli.options import refuse
from lightkv.cli.output import bytes_text, console, table
from lightkv.cli.plan.defaults import BLOCK_SIZE
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, check_least
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.blocks import BlockSavings, RequestBlocks, count_blocks
from lightkv.integrations.vllm.plan import ServingPlan, check_pipeline

GIB = 2**30


def check_engine(engine: str | None, block_size: int | None, kv_gib: float | None) -> int | None:
    """Tokens of a block of the engine's cache, None where no engine is asked for.

    Raises:
        ConfigError: another engine than vLLM, options without an engine, or a size that is not positive.
    """
    if engine is None:
        alone = {"--block-size": block_size, "--kv-gib": kv_gib}
        refuse(alone, "it belongs to an engine", remedy="add --engine vllm")
        return None
    if engine != "vllm":
        raise ConfigError(
            "blocks are counted for one engine", field="--engine", value=engine, remedy="use vllm"
        )
    check_least("--block-size", block_size)
    if kv_gib is not None and not 0 < kv_gib < float("inf"):
        raise ConfigError("a cache has some GiB", field="--kv-gib", value=kv_gib)
    return BLOCK_SIZE if block_size is None else block_size


def blocks_of(
    pipeline: Pipeline, shape: DecoderShape, layout: VisionLayout, block_size: int, new_tokens: int
) -> BlockSavings:
    """Blocks of one request with and without the pipeline.

    Raises:
        ConfigError: a pipeline that the engine cannot run, or a decoder whose blocks are not counted.
    """
    check_pipeline(pipeline, "--strategy")
    return count_blocks(pipeline, shape, layout, block_size=block_size, new_tokens=new_tokens)


def smallest_step(pipeline: Pipeline, layout: VisionLayout) -> tuple[int, str]:
    """The smallest `--max-num-batched-tokens` that serves a prompt, and a sentence about it.

    Args:
        pipeline: built for the engine.
        layout: of the prompt, the text behind the pictures.
    """
    plan, (sample,) = ServingPlan(pipeline), layout.samples
    step = plan.piece(sample, layout.length)
    text = layout.length - int(sample.positions.size)
    part = (
        f"the whole prompt, {text:,} tokens of text included"
        if plan.reads_text
        else "the pictures and the token behind them; text in front of them adds to it"
    )
    return (
        step,
        f"One step has to compute {part}: serve with --max-num-batched-tokens {step} or more.",
    )


def blocks_data(counted: BlockSavings, kv_gib: float | None, step: int) -> dict[str, Any]:
    """Plain data; `step` is that of `smallest_step`."""
    found = {"name": "vllm", **counted.to_dict(), "max_num_batched_tokens": step}
    if kv_gib is not None:
        budget = int(kv_gib * GIB)
        found["kv_gib"] = kv_gib
        for side in ("vanilla", "compressed"):
            found[side]["requests"] = getattr(counted, side).requests_under(budget)
    return found


def show_blocks(counted: BlockSavings, kv_gib: float | None, told: str) -> None:
    """Print the groups of layers, what a request takes, and what `smallest_step` tells."""
    out = console()
    out.print(_segments(counted.compressed))
    out.print(_totals(counted, kv_gib))
    out.print(told)
    out.print(
        f"In vLLM, with blocks of {counted.compressed.block_size} tokens in one pool for all groups, "
        "which have equal numbers of layers (padding layers take room for nothing). Blocks are those "
        "after the last token; requests are such requests at once, all at their last token.",
        style="dim",
    )


def _segments(blocks: RequestBlocks) -> Table:
    heads = ("layers", "groups", "layers of a group", "padding layers", "prompt tokens")
    found = table(*heads, "blocks of a group", left=0)
    each = list(zip(blocks.grouping.groups, blocks.blocks, strict=True))
    for segment, tokens in enumerate(blocks.tokens):
        groups = [(group, held) for group, held in each if group.segment == segment]
        layers = [layer for group, _ in groups for layer in group.layers]
        first, last = min(layers), max(layers)
        found.add_row(
            f"{first}–{last}" if last > first else str(first),
            str(len(groups)),
            str(blocks.grouping.size),
            str(sum(group.padding for group, _ in groups)),
            f"{tokens:,}",
            f"{groups[0][1]:,}",
        )
    return found


def _totals(counted: BlockSavings, kv_gib: float | None) -> Table:
    before, after = counted.vanilla, counted.compressed
    found = table("for one request in vLLM", "vanilla", "compressed", "ratio")
    found.add_row("blocks", f"{sum(before.blocks):,}", f"{sum(after.blocks):,}", "")
    found.add_row(
        "bytes of a block", bytes_text(before.page_bytes), bytes_text(after.page_bytes), ""
    )
    old, new = bytes_text(before.kv_bytes), bytes_text(after.kv_bytes)
    found.add_row("bytes of all blocks", old, new, f"{counted.ratio:.3f}")
    if kv_gib is not None:
        budget = int(kv_gib * GIB)
        few, many = before.requests_under(budget), after.requests_under(budget)
        ratio = f"{many / few:.3f}" if few else ""
        found.add_row(f"requests in {kv_gib:.4g} GiB", f"{few:,}", f"{many:,}", ratio)
    return found
