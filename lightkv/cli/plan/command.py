"""`lightkv plan`: what a schedule leaves and saves, counted without weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from lightkv.cli.collector import rare_collections
from lightkv.cli.options import Json, PipelineChanges, Retention, chosen, refuse
from lightkv.cli.output import console, print_json
from lightkv.cli.plan.defaults import BLOCK_SIZE, RANGE, SHARE, WEIGHT_BYTES
from lightkv.core.errors import check_least


@rare_collections()
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="llava-v1.5-7b, llava-v1.5-13b, llava-next-7b, llava-next-13b, internvl2-8b, eve-7b, "
            "eve-7b-hd, qwen2.5-vl-7b, demo, a config.json, a checkpoint directory or a hub id."
        ),
    ],
    strategy: Annotated[
        str, typer.Option(help="A preset or a pipeline file; several for --sweep.")
    ] = "lightkv",
    retention: Retention = None,
    changes: PipelineChanges = None,
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
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="A picture of so many pixels; repeatable."),
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
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Such as 24GiB: what it holds of the model, and of such requests."
        ),
    ] = None,
    gpu_share: Annotated[
        float | None, typer.Option(help=f"Of the GPU's memory, what may be used [{SHARE:g}].")
    ] = None,
    weight_bytes: Annotated[
        float | None, typer.Option(help=f"Bytes of a weight [{WEIGHT_BYTES:g}]; 0.5 for 4 bits.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Serves the model, by name [found by its class].")
    ] = None,
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
    from lightkv.checkpoints.describe import describe, is_hub_id
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.checkpoints.published import TEXT_TOKENS
    from lightkv.cli.plan.blocks import (
        GIB,
        blocks_data,
        blocks_of,
        check_engine,
        show_blocks,
        smallest_step,
    )
    from lightkv.cli.plan.gpu import check_gpu, fit, show_fit
    from lightkv.cli.plan.options import build_pipeline, choose_views, published_stages
    from lightkv.cli.plan.points import retentions_of
    from lightkv.cli.plan.refusals import check_served
    from lightkv.cli.plan.show import plan_data, show_plan, show_trace
    from lightkv.cli.plan.sweep import sweep_command
    from lightkv.cli.plan.trace import compare
    from lightkv.core.cost.counting import count_savings, prompt_layout

    stages = {"--retention": retention, "--layers": layers, "--windows": windows}
    stages["--ratios"] = ratios
    block_size = check_engine(engine, block_size, kv_gib)
    if is_hub_id(model):
        quiet_libraries()
    memory = check_gpu(gpu, gpu_share, weight_bytes, kv_gib)
    described = describe(model, adapter)
    shape = replace(described.shape, bytes_per_value=dtype_bytes)
    described = replace(described, shape=shape)
    views = choose_views(described, vision_tokens, grid, image)
    layout = prompt_layout(views, TEXT_TOKENS if text_tokens is None else text_tokens)
    if sweep:
        fixed = {**stages, "--published": published or None, "--trace": trace or None}
        fixed |= {"--engine": engine, "--gpu": gpu}
        refuse(fixed, "a sweep solves a schedule for each retention", beside="--sweep")
        points = retentions_of(RANGE if sweep_range is None else sweep_range)
        names = [name.strip() for name in strategy.split(",")]
        solved = {"--sweep": True}
        specs = {name: chosen(name, changes, solved) for name in names}
        sweep_command(described, layout, specs, points, new_tokens, plot, json)
        return
    alone = {"--range": sweep_range, "--plot": plot}
    refuse(alone, "it belongs to a sweep", remedy="add --sweep")
    if published:
        refuse(stages, "the published operating point fixes the schedule", beside="--published")
        layers, windows = published_stages(described)
    listed = {"--published": published or None, "--layers": layers}
    pipeline = build_pipeline(
        chosen(strategy, changes, {"--retention": retention}, listed),
        shape.num_layers,
        retention,
        layers,
        windows,
        ratios,
        places=described.places,
        block_size=block_size,
    )
    check_served(described, pipeline, layout)
    savings = count_savings(pipeline, shape, layout, new_tokens)
    held = None if memory is None else fit(described, savings, memory)
    if held is not None:
        kv_gib = max(0, held.left) / GIB
    compared = compare(described, pipeline, layout) if trace else None
    blocks = None
    if block_size is not None:
        blocks = blocks_of(pipeline, shape, layout, block_size, new_tokens)
    if json:
        data = plan_data(model, pipeline, views, dtype_bytes, savings, compared)
        if blocks is not None:
            step, _ = smallest_step(pipeline, layout)
            data["engine"] = blocks_data(blocks, kv_gib, step)
        if held is not None:
            data["gpu"] = held.to_dict()
        print_json(data)
        return
    show_plan(model, pipeline, views, dtype_bytes, savings)
    if held is not None:
        show_fit(held, described, new_tokens)
    if blocks is not None:
        show_blocks(blocks, kv_gib, smallest_step(pipeline, layout)[1])
    if published and described.published is not None:
        console().print(f"Schedule: {described.published.source}.", style="dim")
    if compared is not None:
        show_trace(compared)
