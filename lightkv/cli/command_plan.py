"""`lightkv plan`: what a schedule leaves and saves, counted without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lightkv.cli.output import bytes_text, console, flops_text, print_json

if TYPE_CHECKING:
    from lightkv.cli.descriptions import Description
    from lightkv.core.counting import Savings, ViewSize
    from lightkv.core.pipeline import Pipeline

N = TypeVar("N", int, float)


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="llava-v1.5-7b, llava-v1.5-13b, llava-next-7b, llava-next-13b, demo, a config.json "
            "or a checkpoint directory."
        ),
    ],
    strategy: Annotated[str, typer.Option(help="A preset or a pipeline file.")] = "lightkv",
    retention: Annotated[
        float | None, typer.Option(help="Mean share of vision KV over all layers [0.55].")
    ] = None,
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
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count vision tokens per layer, KV cache and FLOPs of a schedule. Needs no weights."""
    from dataclasses import replace

    from lightkv.cli.descriptions import TEXT_TOKENS
    from lightkv.cli.loading import describe
    from lightkv.core.counting import count_savings, prompt_layout

    _positive("--dtype-bytes", dtype_bytes)
    described = describe(model)
    shape = replace(described.shape, bytes_per_value=dtype_bytes)
    views = choose_views(described, vision_tokens, grid)
    layout = prompt_layout(views, TEXT_TOKENS if text_tokens is None else text_tokens)
    pipeline = build_pipeline(
        strategy,
        shape.num_layers,
        retention,
        layers,
        windows,
        ratios,
        min_layer=described.min_layer,
    )
    savings = count_savings(pipeline, shape, layout, new_tokens)
    if json:
        print_json(_data(model, pipeline, views, dtype_bytes, savings))
        return
    _show(model, pipeline, views, dtype_bytes, savings)


# -- reading the options --------------------------------------------------------------------------


def choose_views(
    described: Description, vision_tokens: int | None, grids: Sequence[str] | None
) -> tuple[ViewSize, ...]:
    """The views to plan for: as given, or those of the model's usual input.

    Raises:
        ConfigError: contradicting options, or none where the model does not decide.
    """
    from lightkv.core.counting import ViewSize
    from lightkv.core.errors import ConfigError

    if grids and vision_tokens is not None:
        raise ConfigError(
            "a grid fixes the number of vision tokens already",
            field="--vision-tokens",
            value=vision_tokens,
            remedy="leave one of --grid and --vision-tokens out",
        )
    if grids:
        return tuple(_view(text) for text in grids)
    if vision_tokens is None:
        if not described.views:
            raise ConfigError(
                "the config does not say how many vision tokens an image takes",
                field="--grid",
                remedy="add --grid ROWSxCOLUMNS or --vision-tokens N",
            )
        return described.views
    _positive("--vision-tokens", vision_tokens)
    if vision_tokens == sum(view.tokens for view in described.views):
        return described.views
    return (ViewSize.of_count(vision_tokens),)


def _view(text: str) -> ViewSize:
    from lightkv.core.counting import ViewSize
    from lightkv.core.errors import ConfigError

    newline = text.lower().endswith("n")
    try:
        sides = [int(side) for side in text.lower().removesuffix("n").split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise ConfigError(
            "a grid is ROWSxCOLUMNS or FRAMESxROWSxCOLUMNS, with n at the end if each row is "
            "followed by a newline token",
            field="--grid",
            value=text,
            remedy="such as 24x24 or 32x48n",
        )
    frames, rows, columns = [1, *sides][-3:]
    return ViewSize((frames, rows, columns), newline)


def build_pipeline(
    strategy: str,
    num_layers: int,
    retention: float | None,
    layers: str | None,
    windows: str | None,
    ratios: str | None,
    *,
    min_layer: int = 0,
) -> Pipeline:
    """The strategy with a solved schedule, or with the stages that the options list.

    Raises:
        ConfigError: contradicting options or a schedule that cannot work.
    """
    from lightkv.core.errors import ConfigError
    from lightkv.core.pipeline import Pipeline, resolve_spec

    spec = resolve_spec(strategy)
    if layers is None:
        for option, value in (("--windows", windows), ("--ratios", ratios)):
            if value is not None:
                raise ConfigError(
                    "stages need their layers too",
                    field=option,
                    value=value,
                    remedy="add --layers, such as --layers 15,23,31",
                )
        changes = {} if retention is None else {"retention": retention}
        return Pipeline.build(spec, num_layers, min_layer=min_layer, **changes)
    if retention is not None:
        raise ConfigError(
            "the layers and ratios fix the retention",
            field="--retention",
            value=retention,
            remedy="leave one of --layers and --retention out",
        )
    stages = _stages(spec, layers, windows, ratios)
    return Pipeline.build(spec, num_layers, min_layer=min_layer, schedule=stages)


def _stages(
    spec: Any, layers: str, windows: str | None, ratios: str | None
) -> list[dict[str, Any]]:
    """Plain stages; windows that are not given are those of the preset."""
    after = _numbers("--layers", layers, int)
    shares = _spread("--ratios", _numbers("--ratios", ratios or "0.5", float), len(after))
    if windows is not None:
        sides: list[Any] = _spread("--windows", _numbers("--windows", windows, int), len(after))
    else:
        known = list(getattr(spec.schedule, "windows", ())) or [None]
        sides = (known + [known[-1]] * len(after))[: len(after)]
    return [
        {"after_layer": layer, "ratio": share, "windows": side}
        for layer, share, side in zip(after, shares, sides, strict=True)
    ]


def _numbers(option: str, text: str, kind: Callable[[str], N]) -> list[N]:
    from lightkv.core.errors import ConfigError

    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            "not a list of numbers",
            field=option,
            value=text,
            remedy="numbers with commas between them, such as 15,23,31",
        ) from error


def _spread(option: str, values: list[N], count: int) -> list[N]:
    from lightkv.core.errors import ConfigError

    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ConfigError(
            f"{len(values)} entries for {count} stages",
            field=option,
            value=",".join(map(str, values)),
            remedy="give one entry for all stages or one for each of --layers",
        )
    return values


def _positive(option: str, value: int) -> None:
    from lightkv.core.errors import ConfigError

    if value < 1:
        raise ConfigError("must be at least 1", field=option, value=value)


# -- printing -------------------------------------------------------------------------------------


def _data(
    model: str,
    pipeline: Pipeline,
    views: Sequence[ViewSize],
    dtype_bytes: int,
    savings: Savings,
) -> dict[str, Any]:
    return {
        "model": model,
        "strategy": pipeline.spec.name,
        "schedule": pipeline.schedule.to_list(),
        "views": [str(view) for view in views],
        "dtype_bytes": dtype_bytes,
        **savings.to_dict(),
    }


def _show(
    model: str,
    pipeline: Pipeline,
    views: Sequence[ViewSize],
    dtype_bytes: int,
    savings: Savings,
) -> None:
    out = console()
    out.print(f"[bold]{model}[/bold], {pipeline.spec.name}: {pipeline.schedule!r}")
    out.print(_layer_table(savings))
    out.print(_cost_table(savings))
    out.print(
        f"retention {savings.retention:.3f} (planned {savings.planned_retention:.3f}): mean over "
        "all layers of the share of vision tokens in the cache"
    )
    separators = f", {savings.separators} of them newlines" if savings.separators else ""
    out.print(
        f"Assumed: vision tokens {savings.vanilla.vision_tokens[0]} ({'; '.join(map(str, views))}"
        f"{separators}), text tokens {savings.text_tokens}, generated tokens "
        f"{savings.new_tokens} (the first comes from the prefill), {dtype_bytes} bytes per cached "
        "value. A multiply-add is 2 FLOPs; prefill attention counts the full square; the vision "
        "tower is left out.",
        style="dim",
    )


def _layer_table(savings: Savings) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("layers", "vision tokens", "share"):
        table.add_column(column, justify="right")
    original = savings.vanilla.vision_tokens[0]
    for first, last, tokens in savings.runs:
        span = f"{first}–{last}" if last > first else str(first)
        table.add_row(span, f"{tokens:,}", f"{tokens / original:.3f}")
    return table


def _cost_table(savings: Savings) -> Any:
    from rich import box
    from rich.table import Table

    before, after, count = savings.vanilla, savings.compressed, savings.new_tokens
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("for one sequence")
    for column in ("vanilla", "compressed", "ratio"):
        table.add_column(column, justify="right")
    prefill = before.prefill_flops, after.prefill_flops + after.compression_flops
    rows: list[tuple[str, int, int, Callable[[float], str]]] = [
        ("vision KV cache", before.vision_kv_bytes, after.vision_kv_bytes, bytes_text),
        (f"KV cache, prompt + {count} tokens", before.kv_bytes, after.kv_bytes, bytes_text),
        ("prefill", *prefill, flops_text),
        (f"prefill + {count} tokens", before.flops, after.flops, flops_text),
    ]
    for label, old, new, text in rows:
        table.add_row(label, text(old), text(new), f"{new / old:.3f}")
    table.add_row("of these for compression", "", flops_text(after.compression_flops), "")
    return table
