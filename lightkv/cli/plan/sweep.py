"""`lightkv plan --sweep`: retention against FLOPs and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightkv.cli.output import bytes_text, console, flops_text, print_json

if TYPE_CHECKING:
    from lightkv.checkpoints.published import Description
    from lightkv.core.cost.counting import Savings
    from lightkv.core.layout import VisionLayout


@dataclass(frozen=True)
class Point:
    """A strategy at a wanted retention; `savings` is None where no schedule reaches it, for `reason`."""

    strategy: str
    wanted: float
    savings: Savings | None
    reason: str = ""

    @property
    def prefill(self) -> float:
        """Prefill FLOPs, compression included, over those of the vanilla prefill."""
        assert self.savings is not None
        after = self.savings.compressed
        return (after.prefill_flops + after.compression_flops) / self.savings.vanilla.prefill_flops

    @property
    def total(self) -> float:
        """FLOPs of prefill and decoding over the vanilla ones."""
        assert self.savings is not None
        return self.savings.compressed.flops / self.savings.vanilla.flops

    @property
    def vision_kv(self) -> float:
        """Bytes of vision keys and values over the vanilla ones."""
        assert self.savings is not None
        return self.savings.compressed.vision_kv_bytes / self.savings.vanilla.vision_kv_bytes

    @property
    def kv(self) -> float:
        """Bytes of the whole cache after the last token over the vanilla ones."""
        assert self.savings is not None
        return self.savings.compressed.kv_bytes / self.savings.vanilla.kv_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {"strategy": self.strategy, "wanted": self.wanted}
        if self.savings is None:
            return {**found, "reason": self.reason}
        after = self.savings.compressed
        return {
            **found,
            "retention": self.savings.retention,
            "prefill_flops": after.prefill_flops + after.compression_flops,
            "flops": after.flops,
            "vision_kv_bytes": after.vision_kv_bytes,
            "kv_bytes": after.kv_bytes,
            "prefill_ratio": self.prefill,
            "flops_ratio": self.total,
            "vision_kv_ratio": self.vision_kv,
            "kv_ratio": self.kv,
        }


def sweep_points_of(
    described: Description,
    layout: VisionLayout,
    strategies: Sequence[str],
    retentions: Sequence[float],
    new_tokens: int,
) -> list[Point]:
    """Every strategy at every retention.

    Raises:
        ConfigError: a strategy that no retention of the range suits; one that does not exist.
    """
    from lightkv.cli.plan.options import build_pipeline
    from lightkv.core.cost.counting import count_savings
    from lightkv.core.errors import ConfigError
    from lightkv.core.pipeline.pipeline import resolve_spec

    shape, points = described.shape, []
    for strategy in strategies:
        resolve_spec(strategy)  # a name that does not exist is no point out of reach
        reached, refused = False, None
        for wanted in retentions:
            try:
                pipeline = build_pipeline(
                    strategy,
                    shape.num_layers,
                    wanted,
                    None,
                    None,
                    None,
                    min_layer=described.min_layer,
                )
                savings = count_savings(pipeline, shape, layout, new_tokens)
            except ConfigError as error:
                points.append(Point(strategy, wanted, None, str(error)))
                refused = error
                continue
            reached = True
            points.append(Point(strategy, wanted, savings))
        if not reached and refused is not None:
            raise refused
    return points


def sweep_command(
    described: Description,
    layout: VisionLayout,
    strategies: str,
    retentions: Sequence[float],
    new_tokens: int,
    fixed: dict[str, object],
    plot: str | None,
    json: bool,
) -> None:
    """Count, draw and print a sweep.

    Raises:
        ConfigError: one of `fixed` (option → value) that a sweep cannot have, or a plot that cannot
            be drawn.
    """
    from lightkv.core.errors import ConfigError

    for option, value in fixed.items():
        if value is not None:
            raise ConfigError(
                "a sweep solves a schedule for each retention",
                field=option,
                value=value,
                remedy=f"leave one of --sweep and {option} out",
            )
    if plot is not None:
        from lightkv.cli.plan.plot import check_plot

        check_plot(plot)
    names = [name.strip() for name in strategies.split(",")]
    points = sweep_points_of(described, layout, names, retentions, new_tokens)
    if plot is not None:
        from lightkv.cli.plan.plot import draw_sweep

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
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("strategy")
    columns = ("wanted", "retention", "prefill", "ratio", f"with {new_tokens} tokens", "ratio")
    for column in (*columns, "KV cache", "ratio"):
        table.add_column(column, justify="right")
    for point in points:
        row = [point.strategy, f"{point.wanted:.2f}"]
        if point.savings is None:
            table.add_row(*row, "–")
            continue
        after = point.savings.compressed
        prefill = after.prefill_flops + after.compression_flops
        row += [f"{point.savings.retention:.3f}", flops_text(prefill), f"{point.prefill:.3f}"]
        row += [flops_text(after.flops), f"{point.total:.3f}"]
        table.add_row(*row, bytes_text(after.kv_bytes), f"{point.kv:.3f}")
    out = console()
    out.print(Text.assemble((described.name, "bold"), ": retention against FLOPs and KV cache"))
    out.print(table)
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
