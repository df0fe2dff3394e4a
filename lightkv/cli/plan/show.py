"""What `lightkv plan` counted, as tables and as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lightkv.cli.output import bytes_text, console, flops_text, table
from lightkv.cli.plan.trace import Comparison
from lightkv.core.cost.counting import Savings, ViewSize
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.report import LEAST_SHIFT, gap_of


def plan_data(
    model: str,
    pipeline: Pipeline,
    views: Sequence[ViewSize],
    dtype_bytes: int,
    savings: Savings,
    compared: Comparison | None,
) -> dict[str, Any]:
    found = {
        "model": model,
        "strategy": pipeline.spec.name,
        "schedule": pipeline.schedule.to_list(),
        "views": [str(view) for view in views],
        "dtype_bytes": dtype_bytes,
        **savings.to_dict(),
    }
    if compared is not None:
        found["trace"] = compared.to_dict()
    return found


def show_plan(
    model: str,
    pipeline: Pipeline,
    views: Sequence[ViewSize],
    dtype_bytes: int,
    savings: Savings,
) -> None:
    out = console()
    out.print(Text.assemble((model, "bold"), f", {pipeline.spec.name}: {pipeline.schedule!r}"))
    out.print(_layer_table(savings))
    out.print(_cost_table(savings))
    out.print(
        f"retention {savings.retention:.3f} (planned {savings.planned_retention:.3f}): mean over "
        "all layers of the share of vision tokens in the cache"
    )
    if pipeline.retentions:
        shares = (f"{name} {share:.3f}" for name, share in savings.retentions.items())
        out.print(f"of each modality: {', '.join(shares)}")
    planned = pipeline.retentions or pipeline.retention
    gap = gap_of(savings.retention, savings.retentions, planned, pipeline.asked, LEAST_SHIFT)
    if gap is not None and not pipeline.counts_text:
        out.print(f"{gap}.")
    if savings.estimate:
        out.print(f"Costs are an estimate: {savings.estimate}.")
    separators = f", {savings.separators} of them without patch" if savings.separators else ""
    out.print(
        f"Assumed: vision tokens {savings.vanilla.vision_tokens[0]} ({'; '.join(map(str, views))}"
        f"{separators}), text tokens {savings.text_tokens}, generated tokens "
        f"{savings.new_tokens} (the first comes from the prefill), {dtype_bytes} bytes per cached "
        "value. A multiply-add is 2 FLOPs; prefill attention counts the full square; the vision "
        "tower is left out.",
        style="dim",
    )


def _layer_table(savings: Savings) -> Table:
    found = table("layers", "vision tokens", "share", left=0)
    original = savings.vanilla.vision_tokens[0]
    for first, last, tokens in savings.runs:
        span = f"{first}–{last}" if last > first else str(first)
        found.add_row(span, f"{tokens:,}", f"{tokens / original:.3f}")
    return found


def _cost_table(savings: Savings) -> Table:
    before, after, count = savings.vanilla, savings.compressed, savings.new_tokens
    found = table("for one sequence", "vanilla", "compressed", "ratio")
    prefill = before.prefill_flops, after.prefill_flops + after.compression_flops
    rows: list[tuple[str, int, int, Callable[[float], str]]] = [
        ("vision KV cache", before.vision_kv_bytes, after.vision_kv_bytes, bytes_text),
        (f"KV cache, prompt + {count} tokens", before.kv_bytes, after.kv_bytes, bytes_text),
        ("prefill", *prefill, flops_text),
        (f"prefill + {count} tokens", before.flops, after.flops, flops_text),
    ]
    for label, old, new, text in rows:
        found.add_row(label, text(old), text(new), f"{new / old:.3f}")
    found.add_row("of these for compression", "", flops_text(after.compression_flops), "")
    return found


def show_trace(compared: Comparison) -> None:
    found = table(f"{compared.model}, run on the meta device", "counted", "measured", "")
    for side in ("vanilla", "compressed"):
        for name, counted, measured in getattr(compared, side):
            same = "=" if counted == measured else f"{measured - counted:+,}"
            found.add_row(f"{side}, {name}", f"{counted:,}", f"{measured:,}", same)
    out = console()
    out.print(found)
    out.print(
        "Measured by torch's FlopCounterMode, which counts matrix products: 2 FLOPs for a "
        "multiply-add, the full square of attention, one row of logits. KV bytes are those of the "
        "cache tensors. Compression is counted exactly where a strategy's products are those of "
        "guidance and matching; elsewhere the count is an estimate.",
        style="dim",
    )
