"""One LightKV stage, guidance included, against a straightforward dense implementation; and its growth.

    python benchmarks/stage.py [--sizes 576 2304 9216 65536] [--heads 32] [--width 4096] [--rounds 5]
        [--threads 1] [--dtype float32] [--json FILE] [--write docs/performance.md]

For each number of vision tokens: milliseconds of each role, and of the whole stage and `dense.py` on the
same tensors, interleaved in one process; and peak extra memory, which is what is allocated beyond hidden
states, query and key (the layer holds those anyway), counted exactly at the dispatcher. Windows hold 144
tokens (128 in the longest case) at every size, as on one picture; 9,216 and 65,536 tokens are videos.
Times are those of the process (`--wall` for the clock's), so other work on the machine does not count.
Both implementations must keep the same tokens, and the largest difference of the hidden states is
printed. The dense one runs only where its attention matrix takes at most `--dense-gib`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dense import Grid, dense_stage
from memory import LiveBytes
from report import fill, machine
from wide import interleaved

from lightkv import Stage, VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.functional import prompt_index
from lightkv.core.stage import Observed
from lightkv.core.work import run_stage

TEXT, BEFORE = 75, 35
clock: Callable[[], float] = time.process_time
GRIDS = {
    576: ((1, 24, 24), (1, 2, 2)),
    2304: ((1, 48, 48), (1, 4, 4)),
    9216: ((4, 48, 48), (4, 4, 4)),
    65536: ((64, 32, 32), (8, 8, 8)),
}
"""Vision tokens → grid, and windows per axis."""


class Times:
    """A timer of roles, as a session's profiler is one, that a stage enters by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, role: str) -> Times:
        self._role = role
        return self

    def __enter__(self) -> None:
        self._start = clock()

    def __exit__(self, *_: object) -> None:
        spent = clock() - self._start
        self.seconds[self._role] = self.seconds.get(self._role, 0.0) + spent


class Case:
    """Random tensors of one size, and the two implementations on them."""

    def __init__(self, vision: int, heads: int, width: int, dtype: torch.dtype) -> None:
        shape, windows = GRIDS[vision]
        self.grid = Grid(BEFORE, shape, windows)
        length = vision + TEXT
        self.layout = VisionLayout.from_spans([[(BEFORE, shape)]], length=length)
        torch.manual_seed(0)
        self.hidden = torch.randn(1, length, width, dtype=dtype)
        self.query = torch.randn(1, heads, length, width // heads, dtype=dtype)
        self.key = torch.randn(1, heads, length, width // heads, dtype=dtype)
        space = {"space": windows[1], "time": windows[0]} if shape[0] > 1 else windows[1]
        self.stage = Stage.preset("lightkv", windows=space, ratio=0.5)
        self.plan = self.stage.plan(self.layout)
        self.prompt = prompt_index(self.layout, self.hidden.device)

    def ours(self) -> tuple[dict[str, float], Any]:
        """Seconds by role and the result; index tables are made once for a layout, as in a session."""
        times = Times()
        assert self.stage.scorer is not None
        with torch.no_grad():
            with times("guidance"):
                width = self.query.shape[-1]
                view = QueryKeyView(self.query, self.key, width**-0.5, self.prompt)
                score = self.stage.scorer.observe(view)
                del view
            start = clock()
            result = run_stage(
                self.hidden,
                self.layout,
                self.stage,
                self.plan,
                observed=Observed(score),
                timer=times,
            )
        whole = clock() - start
        known = sum(spent for role, spent in times.seconds.items() if role != "guidance")
        return {**times.seconds, "other": whole - known}, result

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return dense_stage(self.hidden[0], self.query[0], self.key[0], self.grid, 0.5)

    def peak(self, run: Callable[[], object]) -> int:
        """Largest sum of bytes alive at once beyond the inputs."""
        with LiveBytes().hold(self.hidden, self.query, self.key) as live:
            run()
        return live.peak

    def difference(self) -> float:
        """Largest difference of the hidden states; the survivors must be the same."""
        _, result = self.ours()
        wanted, index = self.dense()
        kept = result.assignment.survivor
        assert torch.equal(kept, index), "the two implementations keep different tokens"
        return float((result.hidden_states[0] - wanted).abs().max())


def measure(case: Case, rounds: int, with_dense: bool) -> dict[str, Any]:
    """Figures of one size."""
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: case.ours()[0]}
    if with_dense:
        runs["dense"] = lambda: timed(case.dense)
    for run in runs.values():
        run()
    found = interleaved(runs, lambda name: runs[name](), rounds)
    roles = {role: statistics.median(t[role] for t in found["ours"]) for role in found["ours"][0]}
    totals = [sum(t.values()) for t in found["ours"]]
    row: dict[str, Any] = {
        "roles": roles,
        "seconds": statistics.median(totals),
        "extremes": [min(totals), max(totals)],
        "peak": case.peak(case.ours),
        "hidden_bytes": case.hidden.nbytes,
    }
    if with_dense:
        ratios = [a / b for a, b in zip(found["dense"], totals, strict=True)]
        row |= {
            "dense_seconds": statistics.median(found["dense"]),
            "dense_peak": case.peak(case.dense),
            "speedup": statistics.median(ratios),
            "speedup_extremes": [min(ratios), max(ratios)],
            "difference": case.difference(),
        }
        row["memory_ratio"] = row["dense_peak"] / row["peak"]
    return row


def timed(run: Callable[[], object]) -> float:
    start = clock()
    run()
    return clock() - start


def growth(rows: dict[int, dict[str, Any]], first: int, last: int) -> float:
    """Exponent of time in the number of vision tokens between two sizes."""
    return math.log(rows[last]["seconds"] / rows[first]["seconds"]) / math.log(last / first)


def table(rows: dict[int, dict[str, Any]]) -> str:
    """Markdown."""
    roles = list(next(iter(rows.values()))["roles"])
    lines = [
        "| vision tokens | "
        + " | ".join(f"{role} (ms)" for role in roles)
        + " | stage (ms) [extremes] | extra memory (MiB, × hidden states) | dense (ms) "
        "| dense memory (MiB) | faster | less memory | largest difference |",
        "|---|" + "---|" * (len(roles) + 7),
    ]
    for vision, row in rows.items():
        low, high = (1000 * value for value in row["extremes"])
        cells = [f"{1000 * row['roles'][role]:.1f}" for role in roles]
        cells.append(f"{1000 * row['seconds']:.0f} [{low:.0f}, {high:.0f}]")
        cells.append(f"{row['peak'] / 2**20:.1f}, {row['peak'] / row['hidden_bytes']:.2f}")
        if "dense_seconds" in row:
            cells += [
                f"{1000 * row['dense_seconds']:.0f}",
                f"{row['dense_peak'] / 2**20:.0f}",
                f"× {row['speedup']:.1f}",
                f"× {row['memory_ratio']:.1f}",
                f"{row['difference']:.1e}",
            ]
        else:
            cells += ["", f"{row['attention_matrix'] / 2**20:,.0f} for one matrix", "", "", ""]
        lines.append(f"| {vision:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dense-gib", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--wall", action="store_true", help="wall-clock times")
    options = parser.parse_args(arguments)
    if options.wall:
        global clock
        clock = time.perf_counter
    torch.set_num_threads(options.threads)
    rows: dict[int, dict[str, Any]] = {}
    for vision in options.sizes:
        matrix = options.heads * (vision + TEXT) ** 2 * 4
        case = Case(vision, options.heads, options.width, getattr(torch, options.dtype))
        rows[vision] = measure(case, options.rounds, matrix <= options.dense_gib * 2**30)
        rows[vision]["attention_matrix"] = matrix
        del case
    text = table(rows)
    if {2304, 65536} <= rows.keys():
        power = growth(rows, 2304, 65536)
        text += f"\n\nGrowth of the stage's time from 2,304 to 65,536 tokens: N^{power:.2f}."
    text += (
        f"\n\n{options.heads} heads, width {options.width}, {options.dtype}, {TEXT} text tokens, "
        f"{options.rounds} rounds; {machine()}."
    )
    print(text)
    if options.json:
        data = {"machine": machine(), "options": vars(options), "rows": rows}
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, "STAGE", text)


if __name__ == "__main__":
    main()
