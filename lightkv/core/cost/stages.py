"""FLOPs of stages: what compression itself costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightkv.core.cost.flops import DecoderShape, guidance_flops, matching_flops, merging_flops
from lightkv.core.needs import Need
from lightkv.core.stage.cache_entries import plan_rounds
from lightkv.core.stage.plan import partition_of

if TYPE_CHECKING:
    from lightkv.core.layout import VisionLayout
    from lightkv.core.pipeline.pipeline import Pipeline
    from lightkv.core.stage.stage import Stage


def stage_flops(
    stage: Stage,
    shape: DecoderShape,
    text: int,
    vision: int,
    layout: VisionLayout,
    row: int,
    *,
    products_only: bool = False,
) -> int:
    """FLOPs of one stage for one sample: guidance block, similarities in windows, merging.

    With `products_only` those of matrix products alone, which is what FlopCounterMode counts:
    no softmax, and no merging, which is a scatter.
    """
    if not vision:
        return 0
    total = 0 if products_only else merging_flops(shape.hidden_size, vision)
    length = text + vision
    prompts = {
        Need.PROMPT_LOGITS: text,
        Need.PROMPT_ROWS: text,
        Need.LAST_ROW: 1,
        Need.COLUMN_SUMS: length,
    }
    for need, prompt in prompts.items():
        if need in stage.needs:
            total += guidance_flops(shape, length, prompt, products_only=products_only)
    part = partition_of(layout, row, stage.partitioner, stage.windows)
    total += matching_flops(shape.hidden_size, _window_sizes(part, layout.groups[row]))
    return total


def _window_sizes(part: Any, groups: Any) -> list[int]:
    unique, number = np.unique(part.label, return_inverse=True)
    if part.by == "rank":
        sizes = np.bincount(number, minlength=unique.size)
    else:
        owner = np.zeros(groups.population.size, dtype=np.int64)
        owner[groups.label] = number
        sizes = np.zeros(unique.size, dtype=np.int64)
        np.add.at(sizes, owner, groups.population)
    return [int(n) for n, label in zip(sizes, unique, strict=True) if label >= 0]


def rounds_flops(
    pipeline: Pipeline,
    shape: DecoderShape,
    layout: VisionLayout,
    row: int,
    *,
    products_only: bool = False,
) -> int:
    """FLOPs of a stage on the cache of a layer that sees `layout`, for one row."""
    # A token of the cache is as wide as the keys and values of all heads.
    wide = replace(shape, hidden_size=2 * shape.num_kv_heads * shape.head_dim)
    total = 0
    for number, (stage, source, plan) in enumerate(
        plan_rounds(pipeline, layout, torch.device("cpu"))
    ):
        count = source.vision_counts[row]
        if plan.counts_after[row] == plan.counts_before[row]:
            continue
        part = stage if number == 0 else replace(stage, scorer=None)
        text = layout.length - layout.pads[row] - count
        total += stage_flops(part, wide, text, count, source, row, products_only=products_only)
    return total
