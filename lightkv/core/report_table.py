"""A report as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lightkv.core.report import RunReport, SampleReport


def report_table(report: RunReport) -> Table:
    """A rich table with one row for each run of layers of equal length."""
    title = f"{report.strategy}, run {report.run}: {_headline(report)}"
    # A text, so that a name such as [red] is printed and not obeyed.
    table = Table(title=Text(title, style="table.title"))
    for column in ("sample", "layers", "vision in", "vision out", "KV bytes per layer"):
        table.add_column(column, justify="right")
    for number, sample in enumerate(report.samples):
        for first, last, tokens, size in _segments(sample):
            table.add_row(
                str(number),
                f"{first}–{last}" if last > first else str(first),
                str(sample.original),
                str(tokens),
                f"{size:,}",
            )
    return table


def _headline(report: RunReport) -> str:
    asked = "" if report.asked_retention is None else f"asked {report.asked_retention:.3f}, "
    parts = [f"retention {report.retention:.3f} ({asked}planned {report.planned_retention:.3f})"]
    if report.flops_vanilla:
        parts.append(f"prefill FLOPs {report.flops / report.flops_vanilla:.3f} of vanilla")
    if report.time_to_first_token is not None:
        parts.append(f"first token {1e3 * report.time_to_first_token:.1f} ms")
    if report.time_per_token is not None:
        parts.append(f"{1e3 * report.time_per_token:.1f} ms per token")
    parts += [f"{role} {1e3 * t:.1f} ms" for role, t in report.role_times.items()]
    return ", ".join(parts)


def _segments(sample: SampleReport) -> list[tuple[int, int, int, int]]:
    """(first layer, last layer, vision tokens, KV bytes) of runs of equal layers."""
    runs: list[tuple[int, int, int, int]] = []
    for layer, (tokens, size) in enumerate(zip(sample.vision_tokens, sample.kv_bytes, strict=True)):
        if runs and runs[-1][2:] == (tokens, size):
            runs[-1] = (runs[-1][0], layer, tokens, size)
        else:
            runs.append((layer, layer, tokens, size))
    return runs
