"""How many requests fit into a fixed KV budget, and how fast they decode together.

    python benchmarks/kv_budget.py [--budget-mb 1024] [--side 48] [--width 128] [--retention 0.55]
        [--strategy lightkv] [--decode 16] [--rounds 2] [--threads 2] [--json FILE]
        [--write docs/performance.md]

For the uncompressed model and for the strategy: the largest batch whose cache, after the last generated
token, holds at most the budget, found by running the model and adding up the bytes of its cache tensors
(not by formula), and the tokens per second of decode steps at that batch. Stages between layers act
before a layer caches anything, so the cache is never larger than at the end. The model has 32 layers and
32 heads, random weights, side² vision tokens, 75 text tokens. Requests are served in one batch; rounds
are interleaved, medians reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from end_to_end import VANILLA, Runner
from report import fill, machine, settings
from wide import interleaved, prompt_inputs, wide_llava

from lightkv.core.run.session import prepare


def cache_bytes(model: Any, inputs: dict[str, torch.Tensor], session: Any, tokens: int) -> int:
    """Bytes that the cache tensors hold once `tokens` tokens were generated."""
    if session is not None:
        session.attach()
    try:
        with torch.no_grad():
            out = model.generate(
                **inputs,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                return_dict_in_generate=True,
            )
    finally:
        if session is not None:
            session.detach()
    layers = out.past_key_values.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def largest_batch(budget: int, one: int) -> int:
    """Rows that fit; every row of a batch has the same prompt length here, so bytes are linear."""
    return budget // one


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-mb", type=int, default=1024, help="MiB of keys and values")
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--text", type=int, default=75)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--strategy", default="lightkv")
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--decode", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = wide_llava(options.side, width=options.width)
    budget, tokens = options.budget_mb << 20, 1 + options.decode
    rows: dict[str, dict[str, Any]] = {}
    for name in (VANILLA, options.strategy):
        session = None
        if name != VANILLA:
            session = prepare(model, name, retention=options.retention)
        inputs = prompt_inputs(model, options.side, text_tokens=options.text)
        one = cache_bytes(model, inputs, session, tokens)
        batch = largest_batch(budget, one)
        inputs = prompt_inputs(model, options.side, text_tokens=options.text, batch=batch)
        held = cache_bytes(model, inputs, session, tokens)
        assert held <= budget < held + one, (held, budget, one)
        rows[name] = {
            "batch": batch,
            "cache_bytes": held,
            "retention": 1.0 if session is None else session.last.retention,
            "runner": Runner(
                model, inputs, {} if session is None else {name: session}, time.perf_counter
            ),
        }
    times = interleaved(
        rows, lambda name: rows[name]["runner"].timed(name, options.decode), options.rounds
    )
    for name, row in rows.items():
        del row["runner"]
        row["prefill_seconds"] = statistics.median(first for first, _ in times[name])
        row["step_seconds"] = statistics.median(step for _, step in times[name])
        row["tokens_per_second"] = row["batch"] / row["step_seconds"]
        row["requests_per_second"] = row["batch"] / (
            row["prefill_seconds"] + options.decode * row["step_seconds"]
        )
    text = table(rows, options)
    print(text)
    if options.json:
        data = {"machine": machine(), "options": settings(options), "rows": rows}
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, "BUDGET", text)


def table(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown."""
    lines = [
        "| | vision retention | MiB of a request | largest batch | cache (MiB) | decode (tokens/s) "
        "| requests/s |",
        "|---|---|---|---|---|---|---|",
    ]
    base = rows[VANILLA]
    for name, row in rows.items():
        ratio = {
            key: f" (× {row[key] / base[key]:.2f})" if row is not base else ""
            for key in ("batch", "tokens_per_second", "requests_per_second")
        }
        lines.append(
            f"| {name} | {row['retention']:.3f} | {row['cache_bytes'] / row['batch'] / 2**20:.1f} "
            f"| {row['batch']}{ratio['batch']} "
            f"| {row['cache_bytes'] / 2**20:.0f} "
            f"| {row['tokens_per_second']:.1f}{ratio['tokens_per_second']} "
            f"| {row['requests_per_second']:.3f}{ratio['requests_per_second']} |"
        )
    setting = (
        f"Budget {options.budget_mb} MiB; 32 layers, 32 heads, width {options.width}, float32, "
        f"{options.side**2:,} vision and {options.text} text tokens, {options.decode} decode steps; "
        f"{machine()}."
    )
    return "\n".join([*lines, "", setting])


if __name__ == "__main__":
    main()
