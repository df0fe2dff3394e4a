"""One LightKV stage, guidance included: time of each role and peak memory beside a plain implementation.

    python benchmarks/stage.py [--small] [--threads 1] [--json FILE] [--write docs/performance.md]

For 576, 2,304, 9,216 and 65,536 vision tokens (75 text tokens, 32 heads, width 4096, windows of at
most 256 tokens, ρ = ½) it runs lightkv and `dense.py` in turn, in one process, and gives medians with
minimum and maximum; bytes are counted at the dispatcher in a run of their own. Where the
attention matrix of all heads does not fit, only the dense loop over windows runs, with lightkv's
guidance. The tokens of both are compared. Then: how time grows with the tokens, and what index work the
first prefill of a session does, and what a later one of the same layout.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import dense
import torch
from stage_case import BEFORE, GRIDS, POPULATION, RATIO, TEXT, Case, Clock

from lightkv import VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine
from lightkv.lab.live_bytes import LiveBytes

MARK = "<!-- STAGE -->"


def timed(runs: list[Callable[[Clock], torch.Tensor]], rounds: int) -> list[list[Clock]]:
    """Clocks of each run in each round; the runs take turns, the first round does not count."""
    clocks: list[list[Clock]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, kept in zip(runs, clocks, strict=True):
            clock = Clock()
            run(clock)
            if number:
                kept.append(clock)
    return clocks


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def peak(case: Case, run: Callable[[Clock], torch.Tensor]) -> int:
    """Bytes alive at once beyond hidden states, query and key; the result counts."""
    gc.collect()
    with LiveBytes().hold(case.hidden, case.query, case.key) as live:
        run(Clock())
    return live.peak


def summary(clocks: list[Clock]) -> dict[str, Any]:
    """Figures of one implementation."""
    roles = [clock.roles() for clock in clocks]
    return {
        "seconds": spread([clock.wall["total"] for clock in clocks]),
        "cpu_seconds": spread([clock.cpu["total"] for clock in clocks]),
        "roles": {role: median([parts.get(role, 0.0) for parts in roles]) for role in roles[0]},
    }


def differences(ours: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
    """How far the tokens lie apart, for each row of the result."""
    assert ours.shape == plain.shape, "different tokens were kept"
    rows = torch.stack(
        [(a.float() - b.float()).abs().amax() for a, b in zip(ours[0], plain[0], strict=True)]
    )
    return {"largest": float(rows.max()), "tokens_apart": int((rows > 0.05).sum())}


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """All figures of one size."""
    score = None if case.matrix_fits else case.guidance()

    def plain(clock: Clock) -> torch.Tensor:
        return case.dense(clock, score)

    apart = differences(case.ours(Clock()), plain(Clock()))
    ours, other = timed([case.ours, plain], rounds)
    bytes_each = case.hidden.numel() * case.hidden.element_size()
    found: dict[str, Any] = {
        "vision_tokens": case.vision,
        "dtype": str(case.hidden.dtype).removeprefix("torch."),
        "hidden_states_bytes": bytes_each,
        "rounds": rounds,
        "ours": summary(ours),
        "dense": summary(other),
        "dense_matrix_bytes": dense.matrix_bytes(*case.query.shape[1:3], case.query.dtype),
        "dense_fits": case.matrix_fits,
        "difference": apart,
    }
    for name, run in (("ours", case.ours), ("dense", plain)):
        found[name]["peak_bytes"] = peak(case, run)
    found["guidance_peak_bytes"] = peak(case, lambda _: case.guidance())
    if case.matrix_fits:
        pairs = zip(ours, other, strict=True)
        found["faster"] = spread([b.wall["total"] / a.wall["total"] for a, b in pairs])
        found["faster_cpu"] = median(
            [b.cpu["total"] / a.cpu["total"] for a, b in zip(ours, other, strict=True)]
        )
        found["memory_share"] = found["ours"]["peak_bytes"] / found["dense"]["peak_bytes"]
    return found


def exponents(sizes: list[dict[str, Any]], clock: str) -> dict[str, float] | None:
    """Growth of the stage's time: least squares over log-log from 2,304 tokens on, and end to end."""
    points = [
        (math.log(s["vision_tokens"]), math.log(s["ours"][clock]["median"]))
        for s in sizes
        if s["vision_tokens"] >= 2304
    ]
    if len(points) < 2:
        return None
    x, y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    fitted = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    (a, b), (c, d) = points[0], points[-1]
    return {"fitted": fitted, "end_to_end": (d - b) / (c - a)}


def prefills(vision: int, count: int = 6) -> dict[str, float]:
    """CPU seconds of index work in the first prefill of a session and in later ones of the same layout.

    Three stages: reading the spans, windows, budgets, gather tables and prompt positions. The stages
    run at width 16 in between and are not counted.
    """
    schedule = [{"after_layer": layer, "ratio": RATIO} for layer in (1, 2, 3)]
    windows = {"name": "windows", "population": POPULATION}
    pipeline = Pipeline.build("lightkv", 4, schedule=schedule, partitioner=windows)
    shape = DecoderShape(
        num_layers=4,
        hidden_size=16,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=16,
        vocab_size=16,
        bytes_per_value=4,
    )
    engine, hidden = Engine(pipeline, shape), torch.randn(1, vision + TEXT, 16)
    taken = []
    for _ in range(count):
        clock, tokens = Clock(), hidden
        with clock("layout"):
            spans = [[(BEFORE, GRIDS[vision])]]
            prefill = engine.begin(VisionLayout.from_spans(spans, length=vision + TEXT))
        for layer, placed in pipeline.between.items():
            with clock("tables"):
                prompt = prompt_index(prefill.layout, tokens.device)
                engine.plan(placed, prefill.layout, tokens.device)
            heads = tokens[:, None]
            prefill.read_attention(layer, QueryKeyView(heads, heads, 0.25, prompt))
            tokens = prefill.apply(layer, tokens)
        engine.finish(prefill, cached=True)
        taken.append(sum(clock.cpu.values()))
    return {"first": taken[0], "later": median(taken[1:])}


# -- the report -------------------------------------------------------------------------------


def _ms(seconds: dict[str, float]) -> str:
    return (
        f"{seconds['median'] * 1e3:,.0f} ({seconds['min'] * 1e3:,.0f}–{seconds['max'] * 1e3:,.0f})"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}"


def table(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    lines = [
        f"Machine: {report['machine']}, {report['threads']} thread{'s' * (report['threads'] > 1)}, "
        f"torch {report['torch']}. {report['heads']} heads, width {report['width']}, "
        f"{TEXT} text tokens, ρ = {RATIO}, windows of at most {POPULATION} tokens. "
        "Times are medians in ms of wall clock, minimum and maximum behind them; memory is MiB beyond "
        "hidden states, query and key.",
        "",
        "| vision tokens | dtype | lightkv | guidance | matching | aggregation | other | dense | "
        "faster | memory | dense memory | share | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in report["sizes"]:
        ours, other = size["ours"], size["dense"]
        roles = ours["roles"]
        parts = [f"{roles[role] * 1e3:,.0f}" for role in ("guidance", "matching", "aggregation")]
        rest = f"{(roles['other'] + roles['scoring']) * 1e3:,.1f}"
        if size["dense_fits"]:
            beside = [
                _ms(other["seconds"]),
                f"{size['faster']['median']:.1f} × ({size['faster']['min']:.1f}–"
                f"{size['faster']['max']:.1f})",
            ]
            memory = [_mib(other["peak_bytes"]), f"{size['memory_share']:.3f}"]
        else:
            beside = [f"does not fit; windows alone {_ms(other['seconds'])}", ""]
            memory = [f"{_mib(size['dense_matrix_bytes'])} for the matrix", ""]
        cells = [f"{size['vision_tokens']:,}", size["dtype"], _ms(ours["seconds"]), *parts, rest]
        cells += [
            *beside,
            _mib(ours["peak_bytes"]),
            *memory,
            f"{size['difference']['largest']:.1g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Growth exponent of lightkv's time from 2,304 tokens on:", ""]
    for dtype, found in report["growth"].items():
        if found["wall"] is not None:
            wall, cpu = found["wall"], found["cpu"]
            lines.append(
                f"- {dtype}: {wall['fitted']:.2f} fitted, {wall['end_to_end']:.2f} from first to last "
                f"point; by CPU time {cpu['fitted']:.2f} and {cpu['end_to_end']:.2f}"
            )
    lines += [
        "",
        "Index work of a prefill with three stages (CPU time):",
        "",
        "| vision tokens | first prefill, ms | later prefills, ms |",
        "|---|---|---|",
    ]
    for vision, found in report["prefills"].items():
        lines.append(
            f"| {int(vision):,} | {found['first'] * 1e3:.1f} | {found['later'] * 1e3:.1f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            ln.split(":")[1].strip() for ln in info.read_text().splitlines() if "model name" in ln
        ]
        name = models[0] if models else name
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"{name}, {os.cpu_count()} cores (load {load:.1f} at the start)"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="576 tokens, 8 heads, width 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help="Markdown file to put the tables into")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heads, width = (8, 256) if options.small else (32, 4096)
    sizes = [576, 2304] if options.small else options.sizes
    report: dict[str, Any] = {
        "machine": machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "heads": heads,
        "width": width,
        "sizes": [],
        "growth": {},
    }
    with torch.no_grad():
        for dtype in options.dtypes:
            own = []
            for vision in sizes:
                rounds = max(1, options.rounds // 2) if vision > 10_000 else options.rounds
                own.append(measure(Case.make(vision, heads, width, getattr(torch, dtype)), rounds))
            report["sizes"] += own
            report["growth"][dtype] = {
                "wall": exponents(own, "seconds"),
                "cpu": exponents(own, "cpu_seconds"),
            }
        report["prefills"] = {str(vision): prefills(vision) for vision in sizes}
    text = table(report)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.write:
        before, _, after = options.write.read_text().split(MARK)
        options.write.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}")


if __name__ == "__main__":
    main()
