"""What an engine's log says once: what lightkv runs, and how many pictures fit the KV cache."""

from __future__ import annotations

from lightkv.checkpoints.published import TEXT_TOKENS
from lightkv.core.cost.counting import ViewSize, prompt_layout
from lightkv.core.errors import LightKVError
from lightkv.integrations.vllm.groups import Grouping
from lightkv.integrations.vllm.plan import ServingPlan
from lightkv.integrations.vllm.savings import PromptSavings, Savings

SIDE = 24
"""Vision tokens along the side of the picture that the log counts with: one of LLaVA-1.5."""


def prompt_savings(plan: ServingPlan, block_size: int, side: int = SIDE) -> PromptSavings:
    """What a prompt of one square picture and the text of a question saves.

    Raises:
        ConfigError: windows that the picture does not fit.
    """
    layout = prompt_layout([ViewSize((1, side, side))], TEXT_TOKENS)
    entry = plan.entry(("announced", side), layout.samples[0], layout.length)
    return Savings(plan).of(entry, block_size)


def announcement(plan: ServingPlan, grouping: Grouping, pages: int, block_size: int) -> list[str]:
    """The lines.

    Args:
        plan: of the engine.
        grouping: of the decoder's layers.
        pages: blocks of the pool, vLLM's null block included.
        block_size: tokens of a block.
    """
    pipeline = plan.pipeline
    layers = ", ".join(str(layer) for layer in sorted(pipeline.between)) or "none"
    padding = f", {grouping.padding} layers of padding" if grouping.padding else ""
    lines = [
        f"lightkv is on: pipeline {pipeline.spec.name}, retention {pipeline.retention:.3g}, "
        f"stages after decoder layers {layers} of {pipeline.num_layers}; "
        f"{len(grouping.groups)} groups of {grouping.size} layers{padding}; plan {plan.digest}."
    ]
    try:
        saved = prompt_savings(plan, block_size)
    except LightKVError:
        return lines  # Windows for larger grids: nothing to count with.
    at_once = (pages - 1) // saved.blocks
    return [
        *lines,
        f"A prompt of one picture of {saved.vision} tokens and {TEXT_TOKENS} tokens of text takes "
        f"{saved.blocks} blocks instead of {saved.uncompressed:g}: about {at_once} at once in "
        f"{pages - 1:,} blocks. vLLM's own figure of concurrency counts requests of full length, and "
        "as if nothing were compressed.",
    ]
