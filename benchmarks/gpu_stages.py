"""Times of one LightKV stage on a GPU beside the two floors of the card.

    python benchmarks/gpu_stages.py [--device cuda] [--sizes 576 2304 9216 65536]
        [--dtypes bfloat16 float32] [--rounds 20] [--json FILE]
    python benchmarks/gpu_stages.py --device cpu --small         # the same code at toy sizes

The stage is that of `stage.py` (`stage_case.py`: 75 text tokens, 32 heads, width 4096, windows of at
most 256 tokens, ρ = ½), guidance included. Floors: the bytes that must move at least (query, prompt keys
and hidden states in, the shorter hidden states out) over the bandwidth of a copy, and the FLOPs of the
stage over the rate of a matrix product, both measured on the same card a moment before. What the caches
of the card hold may move faster than the floor says. *Host* is the time until the work is handed over:
where it is the larger one, the device waits for Python. The JSON is written anew after each size.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from report import machine, settings
from stage_case import GRIDS, TEXT, Case, Clock

from lightkv.core.cost.flops import DecoderShape

COPY_BYTES, PRODUCT = 2**30, 8192
"""Bytes of the copied tensor, and the side of the matrices that are multiplied."""


class DeviceClock:
    """Seconds of the device for each role; nothing waits until they are read."""

    def __init__(self) -> None:
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, role: str) -> Iterator[None]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._events.append((role, start, end))

    def roles(self) -> dict[str, float]:
        """Seconds of each role, `total` and what lies between the others."""
        torch.cuda.synchronize()
        found: dict[str, float] = {}
        for role, start, end in self._events:
            found[role] = found.get(role, 0.0) + start.elapsed_time(end) / 1000
        parts = sum(taken for role, taken in found.items() if role != "total")
        return {**found, "other": found["total"] - parts}


class HostClock(Clock):
    """The same on the host, whose own work is all there is."""

    def roles(self) -> dict[str, float]:
        """Seconds of each role, `total` included."""
        return {**super().roles(), "total": self.wall["total"]}


def rounds_of(run: Callable[[Any], object], rounds: int, device: str) -> list[dict[str, float]]:
    """Roles of each round, and `host`: when the call returned. The first three rounds do not count."""
    found = []
    for number in range(rounds + 3):
        clock = HostClock() if device == "cpu" else DeviceClock()
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run(clock)
        host = time.perf_counter() - started
        if number >= 3:
            found.append({**clock.roles(), "host": host})
    return found


def floors(dtype: torch.dtype, device: str, small: bool) -> dict[str, float]:
    """Bytes a second of a copy (read and written) and FLOPs a second of a matrix product."""
    count, side = (2**20, 256) if small else (COPY_BYTES // dtype.itemsize, PRODUCT)
    source = torch.randn(count, dtype=dtype, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))

    def best(run: Callable[[], object]) -> float:
        def timed(clock: Any) -> None:
            with clock("total"):
                run()

        return min(each["total"] for each in rounds_of(timed, 10, device))

    return {
        "bytes_per_second": 2 * source.nbytes / best(lambda: target.copy_(source)),
        "flops_per_second": 2 * side**3 / best(lambda: left @ right),
    }


def least_bytes(case: Case) -> int:
    """Bytes that a stage moves at least: each tensor it needs once, and its result."""
    tokens, left = case.hidden.shape[1], case.hidden.shape[1] - case.vision // 2
    width = case.hidden.element_size() * case.hidden.shape[2]
    return case.query.nbytes + case.key.nbytes * TEXT // tokens + width * (tokens + left)


def least_flops(case: Case) -> int:
    """FLOPs of the stage as `lightkv plan` counts them."""
    heads, width = case.query.shape[1], case.hidden.shape[2]
    shape = DecoderShape(1, width, heads, heads, width // heads, width, width)
    sizes = shape.stage_sizes(case.stage.plan(case.layout), TEXT + case.vision, 0)
    return case.stage.flops(sizes).total


def peak_bytes(case: Case, device: str) -> int | None:
    """Bytes of the allocator beyond query, key and hidden states; None without a GPU."""
    if device == "cpu":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.ours(DeviceClock())
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(case: Case, floor: dict[str, float], rounds: int, device: str) -> dict[str, Any]:
    """Figures of one size."""
    peak = peak_bytes(case, device)
    found = rounds_of(case.ours, rounds, device)
    totals = [each["total"] for each in found]
    return {
        "vision_tokens": case.vision,
        "dtype": str(case.hidden.dtype).removeprefix("torch."),
        "seconds": {"median": median(totals), "min": min(totals), "max": max(totals)},
        "roles": {role: median([each[role] for each in found]) for role in found[0]},
        "bytes": least_bytes(case),
        "flops": least_flops(case),
        "bytes_floor_seconds": least_bytes(case) / floor["bytes_per_second"],
        "flops_floor_seconds": least_flops(case) / floor["flops_per_second"],
        "peak_bytes": peak,
    }


def table(data: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{data['heads']} heads, width {data['width']}, {TEXT} text tokens, ρ = 0.5; medians of "
        f"{data['options']['rounds']} rounds in ms. {data['machine']}.",
        "",
        "| vision tokens | dtype | stage [extremes] | host | guidance | matching | aggregation "
        "| bytes floor | FLOPs floor | over the larger floor | peak memory (MiB) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["sizes"]:
        taken, roles = row["seconds"], row["roles"]
        larger = max(row["bytes_floor_seconds"], row["flops_floor_seconds"])
        times = [roles[role] for role in ("host", "guidance", "matching", "aggregation")]
        times += [row["bytes_floor_seconds"], row["flops_floor_seconds"]]
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"
        spread = "{median:.3f} [{min:.3f}, {max:.3f}]"
        cells = [f"{row['vision_tokens']:,}", row["dtype"]]
        cells.append(spread.format(**{name: 1000 * value for name, value in taken.items()}))
        cells += [f"{1000 * each:.3f}" for each in times]
        cells += [f"{taken['median'] / larger:.1f} ×", peak]
        lines.append("| " + " | ".join(cells) + " |")
    for dtype, floor in data["floors"].items():
        moved, done = (floor[f"{kind}_per_second"] / 1e12 for kind in ("bytes", "flops"))
        lines += [
            "",
            f"{dtype}: a copy moves {moved:.3f} TB/s, a product runs at {done:.2f} TFLOP/s.",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="*", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; try --device cpu --small")
    heads, width = (4, 64) if options.small else (32, 4096)
    data: dict[str, Any] = {"machine": machine(), "options": settings(options)}
    data |= {"heads": heads, "width": width, "floors": {}, "sizes": []}
    with torch.no_grad():
        for dtype in options.dtypes:
            kind = getattr(torch, dtype)
            floor = floors(kind, options.device, options.small)
            data["floors"][dtype] = floor
            for vision in options.sizes:
                case = Case.make(vision, heads, width, kind, options.device)
                data["sizes"].append(measure(case, floor, options.rounds, options.device))
                data["table"] = table(data)
                if options.json:
                    options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    print(data["table"])


if __name__ == "__main__":
    main()
