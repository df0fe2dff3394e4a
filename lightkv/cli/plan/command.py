"""`lightkv plan`: what a schedule leaves and saves, counted without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lightkv.checkpoints.describe import describe
from lightkv.checkpoints.published import TEXT_TOKENS
from lightkv.cli.options import Json, Retention, refuse
from lightkv.cli.output import bytes_text, console, flops_text, print_json, table
from lightkv.cli.plan.blocks import BLOCK_SIZE, blocks_data, blocks_of, check_engine, show_blocks
from lightkv.cli.plan.options import build_pipeline, choose_views, published_stages
from lightkv.cli.plan.points import RANGE, retentions_of
from lightkv.cli.plan.sweep import sweep_command
from lightkv.cli.plan.trace import Comparison, compare
from lightkv.core.cost.counting import Savings, ViewSize, count_savings, prompt_layout
from lightkv.core.errors import check_least
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.report import gap_of


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="llava-v1.5-7b, llava-v1.5-13b, llava-next-7b, llava-next-13b, internvl2-8b, eve-7b, "
            "eve-7b-hd, qwen2.5-vl-7b, demo, a config.json or a checkpoint directory."
        ),
    ],
    strategy: Annotated[
        str, typer.Option(help="A preset or a pipeline file; several for --sweep.")
    ] = "lightkv",
    retention: Retention = None,
    layers: Annotated[
        str | None, typer.Option(help="Compress after so many layers, as 15,23,31.")
    ] = None,
    windows: Annotated[
        str | None, typer.Option(help="Windows per side of each stage, as 4,2,1.")
    ] = None,
    ratios: Annotated[
        str | None, typer.Option(help="Removed share of each stage, or one for all [0.5].")
    ] = None,
    vision_tokens: Annotated[
        int | None, typer.Option(help="Vision tokens, laid out as a square.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="ROWSxCOLUMNS of a view, with n at the end for newlines; repeatable."),
    ] = None,
    text_tokens: Annotated[int | None, typer.Option(help="Text tokens of the prompt [75].")] = None,
    new_tokens: Annotated[int, typer.Option(help="Generated tokens.")] = 100,
    dtype_bytes: Annotated[int, typer.Option(help="Bytes of a cached value.")] = 2,
    published: Annotated[
        bool, typer.Option("--published", help="The model's published layers and windows.")
    ] = False,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace", help="Run the real class on the meta device too, and compare what it did."
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="vllm: the blocks that a request takes there, and its schedule there."),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help=f"Tokens of a block of the engine [{BLOCK_SIZE}].")
    ] = None,
    kv_gib: Annotated[
        float | None, typer.Option(help="Size of the engine's KV cache: count requests in it.")
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Count a range of retentions.")] = False,
    sweep_range: Annotated[
        str | None, typer.Option("--range", help=f"START:STOP:STEP of the sweep [{RANGE}].")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the sweep (.svg, .png, .pdf); lightkv[plot]."),
    ] = None,
    json: Json = False,
) -> None:
    """Count vision tokens per layer, KV cache and FLOPs of a schedule. Needs no weights."""
    check_least("--dtype-bytes", dtype_bytes)
    stages = {"--retention": retention, "--layers": layers, "--windows": windows}
    stages["--ratios"] = ratios
    block_size = check_engine(engine, block_size, kv_gib)
    described = describe(model)
    shape = replace(described.shape, bytes_per_value=dtype_bytes)
    described = replace(described, shape=shape)
    views = choose_views(described, vision_tokens, grid)
    layout = prompt_layout(views, TEXT_TOKENS if text_tokens is None else text_tokens)
    if sweep:
        fixed = {**stages, "--published": published or None, "--trace": trace or None}
        fixed["--engine"] = engine
        refuse(fixed, "a sweep solves a schedule for each retention", beside="--sweep")
        points = retentions_of(RANGE if sweep_range is None else sweep_range)
        sweep_command(described, layout, strategy, points, new_tokens, plot, json)
        return
    alone = {"--range": sweep_range, "--plot": plot}
    refuse(alone, "it belongs to a sweep", remedy="add --sweep")
    if published:
        refuse(stages, "the published operating point fixes the schedule", beside="--published")
        layers, windows = published_stages(described)
    pipeline = build_pipeline(
        strategy,
        shape.num_layers,
        retention,
        layers,
        windows,
        ratios,
        places=described.places,
        block_size=block_size,
    )
    savings = count_savings(pipeline, shape, layout, new_tokens)
    compared = compare(described, pipeline, layout) if trace else None
    blocks = None
    if block_size is not None:
        blocks = blocks_of(pipeline, shape, layout, block_size, new_tokens)
    if json:
        data = _data(model, pipeline, views, dtype_bytes, savings, compared)
        if blocks is not None:
            data["engine"] = blocks_data(blocks, kv_gib)
        print_json(data)
        return
    _show(model, pipeline, views, dtype_bytes, savings)
    if blocks is not None:
        show_blocks(blocks, kv_gib)
    if published and described.published is not None:
        console().print(f"Schedule: {described.published.source}.", style="dim")
    if compared is not None:
        _show_trace(compared)


# -- printing -------------------------------------------------------------------------------------


def _data(
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


def _show(
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
    gap = gap_of(savings.retention, savings.retentions, planned, pipeline.asked)
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


def _show_trace(compared: Comparison) -> None:
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
