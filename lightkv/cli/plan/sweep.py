"""`lightkv plan --sweep`: retention against FLOPs and KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from lightkv.cli.output import bytes_text, console, flops_text, print_json, table
from lightkv.cli.plan.plot import check_plot, draw_sweep
from lightkv.cli.plan.points import Point, count_points
from lightkv.core.layout import VisionLayout

if TYPE_CHECKING:
    from lightkv.checkpoints.published import Description
    from lightkv.core.pipeline.pipeline import PipelineSpec


def sweep_command(
    described: Description,
    layout: VisionLayout,
    strategies: Mapping[str, PipelineSpec],
    retentions: Sequence[float],
    new_tokens: int,
    plot: str | None,
    json: bool,
) -> None:
    """Count, draw and print a sweep.

    Raises:
        ConfigError: no retention suits a strategy, or a plot that cannot be drawn.
    """
    if plot is not None:
        check_plot(plot)
    points = count_points(described, layout, strategies, retentions, new_tokens)
    if plot is not None:
        draw_sweep(described.name, points, plot)
    if json:
        print_json(_data(described, layout, new_tokens, points))
        return
    _show(described, layout, new_tokens, points, plot)


def _data(
    described: Description, layout: VisionLayout, new_tokens: int, points: Sequence[Point]
) -> dict[str, Any]:
    counted = next(point.savings for point in points if point.savings is not None)
    return {
        "model": described.name,
        "vision_tokens": layout.vision_counts[0],
        "text_tokens": layout.text_counts[0],
        "new_tokens": new_tokens,
        "dtype_bytes": described.shape.bytes_per_value,
        "vanilla": counted.vanilla.to_dict(),
        "points": [point.to_dict() for point in points],
    }


def _show(
    described: Description,
    layout: VisionLayout,
    new_tokens: int,
    points: Sequence[Point],
    plot: str | None,
) -> None:
    heads = ("strategy", "wanted", "retention", "prefill", "ratio", f"with {new_tokens} tokens")
    found = table(*heads, "ratio", "KV cache", "ratio")
    for point in points:
        row = [point.strategy, f"{point.wanted:.2f}"]
        if point.savings is None:
            found.add_row(*row, "–")
            continue
        after = point.savings.compressed
        prefill, ratios = after.prefill_flops + after.compression_flops, point.ratios
        row += [f"{point.savings.retention:.3f}", flops_text(prefill), f"{ratios['prefill']:.3f}"]
        row += [flops_text(after.flops), f"{ratios['flops']:.3f}"]
        found.add_row(*row, bytes_text(after.kv_bytes), f"{ratios['kv']:.3f}")
    out = console()
    out.print(Text.assemble((described.name, "bold"), ": retention against FLOPs and KV cache"))
    out.print(found)
    for reason in dict.fromkeys(point.reason for point in points if point.savings is None):
        out.print(f"–: {reason}", style="dim")
    out.print(
        f"Assumed: vision tokens {layout.vision_counts[0]}, text tokens {layout.text_counts[0]}, "
        f"generated tokens {new_tokens}, {described.shape.bytes_per_value} bytes per cached value; "
        "ratios are to the uncompressed model. The KV cache is the whole one after the last token.",
        style="dim",
    )
    if plot is not None:
        out.print(f"Drawn: {plot}", style="dim")
