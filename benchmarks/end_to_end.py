"""Time to first token and decode rate against the uncompressed model, with the ideal beside.

    python benchmarks/end_to_end.py [--side 48] [--width 1024] [--layers 32] [--heads 32]
        [--retention 0.55] [--strategies all] [--rounds 5] [--decode 8] [--threads 2]
        [--decoder llama|hybrid|experts] [--json FILE] [--write docs/performance.md] [--mark TTFT]

A LLaVA of the 7B layout (32 layers, 32 heads) with random weights, narrower so that the machine can
run it, side² vision tokens and 75 of text. Rounds are interleaved (vanilla, each strategy, vanilla, …);
a ratio is that of two runs of one round, and the median over rounds is reported with the extremes. The
ideal is the ratio of prefill FLOPs, compression included, of this very model; "over ideal" is the
measured ratio divided by it. Times run from `generate` to the first token, the tiny vision tower
included; a decode step is the median of those after it. `--cpu-time` counts the time of this process
alone, for machines that do other work meanwhile (use one thread). Weights are random: this times, it
says nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from report import fill, machine, settings
from transformers import StoppingCriteriaList
from wide import DECODERS, interleaved, prompt_inputs, ratio_with_spread, wide_llava

from lightkv.core.errors import LightKVError
from lightkv.core.pipeline.pipeline import resolve_spec
from lightkv.core.plugins import registry
from lightkv.core.run.session import Session, prepare

VANILLA = "vanilla"


def sessions(model: Any, names: list[str], retention: float) -> dict[str, Session]:
    """A session of each strategy that the model can take; what it cannot is said."""
    found: dict[str, Session] = {}
    for name in names:
        try:
            found[name] = prepare(model, name, retention=retention)
        except LightKVError as error:
            print(f"{name}: {error}")
    return found


def in_prefill(name: str) -> bool:
    """Whether a preset compresses before or between layers, so that prefill gets cheaper."""
    schedule = resolve_spec(name).schedule
    return getattr(schedule, "site", "decoder") != "cache"


class Runner:
    """Runs the model plain or in one of the sessions, and times it."""

    def __init__(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        held: dict[str, Session],
        clock: Callable[[], float],
    ) -> None:
        self.model, self.inputs, self.held, self.clock = model, inputs, held, clock

    def timed(self, name: str, decode: int) -> tuple[float, float]:
        """Seconds to the first token, and the median of the `decode` steps after it."""
        session, stamps = self.held.get(name), []

        def stamp(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            stamps.append(self.clock())
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

        if session is not None:
            session.attach()
        try:
            stamps.append(self.clock())
            with torch.no_grad():
                self.model.generate(
                    **self.inputs,
                    max_new_tokens=1 + decode,
                    min_new_tokens=1 + decode,
                    do_sample=False,
                    stopping_criteria=StoppingCriteriaList([stamp]),
                )
        finally:
            if session is not None:
                session.detach()
        steps = [after - before for before, after in pairwise(stamps)]
        return steps[0], statistics.median(steps[1:]) if decode else 0.0


def measure(runner: Runner, rounds: int, decode: int) -> dict[str, Any]:
    """One row for each strategy."""
    names = [VANILLA, *runner.held]
    for name in names:  # the first pass of all is slow, and fills the reports
        runner.timed(name, 0)
    found = interleaved(names, lambda name: runner.timed(name, decode), rounds)
    first = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    steps = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    rows = {}
    for name in names:
        row: dict[str, Any] = {"seconds": statistics.median(first[name]), "times": first[name]}
        row["ttft"] = ratio_with_spread(first[name], first[VANILLA])
        if decode:
            row["steps"] = steps[name]
            row["step"] = ratio_with_spread(steps[name], steps[VANILLA])
        if name != VANILLA:
            report = runner.held[name].last
            row["retention"] = report.retention
            row["flops"] = report.flops / report.flops_vanilla
            spent = sum(sample.compression_flops for sample in report.samples)
            row["compression_flops"] = spent / report.flops_vanilla
            row["over_ideal"] = row["ttft"]["ratio"] / row["flops"]
        rows[name] = row
    return rows


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    out = [
        "| strategy | retention | FLOPs ratio (ideal) | TTFT ratio [extremes] | over ideal "
        "| decode step |",
        "|---|---|---|---|---|---|",
    ]
    base = rows[VANILLA]
    step = f"1 ({1000 * statistics.median(base['steps']):.0f} ms)" if "steps" in base else ""
    out.append(f"| vanilla | 1 | 1 | 1 ({base['seconds']:.2f} s) | | {step} |")
    for name, row in sorted(rows.items(), key=lambda item: item[1].get("over_ideal", 0)):
        if name == VANILLA:
            continue
        ttft = row["ttft"]
        step = f"{row['step']['ratio']:.2f}" if "step" in row else ""
        out.append(
            f"| `{name}` | {row['retention']:.3f} | {row['flops']:.3f} | {ttft['ratio']:.3f} "
            f"[{ttft['low']:.3f}, {ttft['high']:.3f}] | {row['over_ideal']:.2f} | {step} |"
        )
    return "\n".join(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=48, help="side² vision tokens")
    parser.add_argument("--text", type=int, default=75)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--decoder", choices=DECODERS, default="llama", help="kind of its layers")
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--strategies", default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", type=int, default=8, help="tokens timed after the first")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cpu-time", action="store_true", help="time of this process alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--mark", default="TTFT", help="where in the page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.strategies.split(",")
    if options.strategies == "all":
        names = [name for name in sorted(registry().presets) if in_prefill(name)]
    model = wide_llava(
        options.side,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        dtype=getattr(torch, options.dtype),
        decoder=options.decoder,
    )
    inputs = prompt_inputs(model, options.side, text_tokens=options.text)
    clock = time.process_time if options.cpu_time else time.perf_counter
    runner = Runner(model, inputs, sessions(model, names, options.retention), clock)
    rows = measure(runner, options.rounds, options.decode)
    text = table(rows)
    setting = (
        f"{options.decoder}, {options.layers} layers, {options.heads} heads, "
        f"width {options.width}, {options.dtype}, "
        f"{options.side**2:,} vision and {options.text} text tokens, {options.rounds} rounds; "
        f"{machine()}"
    )
    print(text, setting, sep="\n\n")
    data = {"setting": setting, "options": settings(options), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, options.mark, f"{text}\n\n{setting}.")


if __name__ == "__main__":
    main()
