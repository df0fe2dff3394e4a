"""`vllm serve` without and with lightkv at equal bytes of KV cache, under `vllm bench serve`.

    python benchmarks/vllm/serve.py [--small] [--retention 0.55 0.35] [--rounds 2] [--dtype bfloat16]
        [--eager] [--vision 576 2304] [--json FILE] [--write docs/vllm.md]

For each number of vision tokens a server of each setting is started, all with the same bytes of KV
cache: as many as a few uncompressed requests need. The settings take turns, and another one begins each
round; a server that is not asked waits. In a round a server first gets some requests one at a time
(prefill without load), then many at once (throughput, time to first token, most requests that run at
once). Ratios are those of one round, and the median over rounds is shown.

The model has 24 layers of 512 and no trained weights; its tower is one narrow layer. Everything runs on
CPU, one thread for each engine. A run takes about 15 minutes on two idle cores, `--small` about 2.

The exit status is 1 when the most requests at once are less than 0.9 of what the counted blocks promise,
or a prefill takes more than 1.1 of what the counted FLOPs promise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
sys.path.append(str(Path(__file__).parents[1]))

from counted import BLOCK_SIZE, PRESET, Counted, count, pool_bytes
from dummy import PATCH, write_model
from load import PROMPT_TEXT, Load, put_load
from report import fill, machine, settings
from server import Server

from lightkv.integrations.vllm import engine_args
from lightkv.integrations.vllm.flags import serve_flags

MARK = "SERVE"
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PEAK_BOUND, PREFILL_BOUND = 0.9, 1.1


@dataclass(frozen=True)
class Case:
    """One size of picture.

    Attributes:
        side: of its grid of vision tokens.
        held: uncompressed requests that the cache holds.
        requests: sent at once.
        new_tokens: generated for each.
        probes: requests sent one at a time.
    """

    side: int
    held: int
    requests: int
    new_tokens: int
    probes: int

    @property
    def vision(self) -> int:
        """Vision tokens of a picture."""
        return self.side * self.side

    @property
    def longest(self) -> int:
        """Tokens of a request at its end, and some to spare."""
        return self.vision + PROMPT_TEXT + self.new_tokens + 32


CASES = (Case(24, 8, 32, 32, 4), Case(48, 4, 14, 32, 2))
SMALL = (Case(24, 3, 10, 12, 2),)


@dataclass
class Measured:
    """A setting in a case.

    Attributes:
        retention: None for no compression.
        counted: what is expected.
        alone, loaded: of each round.
    """

    retention: float | None
    counted: Counted
    alone: list[Load]
    loaded: list[Load]

    @property
    def name(self) -> str:
        """In tables."""
        return "vanilla" if self.retention is None else f"{PRESET} {self.retention:g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "retention": self.retention,
            "counted": {**asdict(self.counted), "block_ratio": self.counted.block_ratio},
            "alone": [load.to_dict() for load in self.alone],
            "loaded": [load.to_dict() for load in self.loaded],
        }


# -- running --------------------------------------------------------------------------------------


def run_case(
    case: Case, retentions: Sequence[float], options: argparse.Namespace
) -> list[Measured]:
    """All settings on one size of picture, in turns."""
    value = VALUE_BYTES[options.dtype]
    sizes = (case.side, PROMPT_TEXT, case.new_tokens, value)
    pool = pool_bytes(*sizes, case.held)
    every = [Measured(None, count(None, *sizes, pool), [], [])]
    every += [Measured(kept, count(kept, *sizes, pool), [], []) for kept in retentions]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_model(Path(folder), case.side, case.longest, options.dtype)
        servers = [
            Server(folder, _flags(case, one.retention, folder, pool, options), patience=900)
            for one in every
        ]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        for one, server in zip(every, servers, strict=True):
            server.wait()
            put_load(server, case.side * PATCH, 1, 2, seed=1)  # first passes allocate
            _tell(f"{case.vision} vision tokens, {one.name}: started")
        for number in range(options.rounds):
            turn = number % len(every)
            for at in [*range(turn, len(every)), *range(turn)]:
                _measure(every[at], servers[at], case, seed=100 * number + 10)
    return every


def _measure(one: Measured, server: Server, case: Case, seed: int) -> None:
    pixels = case.side * PATCH
    one.alone.append(put_load(server, pixels, case.probes, 1, seed, concurrency=1))
    one.loaded.append(put_load(server, pixels, case.requests, case.new_tokens, seed + 1))
    _tell(
        f"{case.vision} vision tokens, {one.name}: {one.loaded[-1].peak_running} at once, "
        f"{one.loaded[-1].seconds:.0f} s, prefill {one.alone[-1].prefill:.2f} s"
    )


def _flags(
    case: Case, retention: float | None, folder: str, pool: int, options: argparse.Namespace
) -> list[str]:
    """What `vllm serve` is told: the same for all settings but for what switches lightkv on."""
    shared: dict[str, Any] = {
        "load_format": "dummy",
        "dtype": options.dtype,
        "block_size": BLOCK_SIZE,
        "max_model_len": case.longest,
        "max_num_batched_tokens": max(case.longest, 2048),
        "max_num_seqs": 64,
        "limit_mm_per_prompt": {"image": 1},
        "kv_cache_memory_bytes": pool,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
    }
    if options.eager:
        shared["enforce_eager"] = True
    own = {} if retention is None else engine_args(folder, PRESET, retention=retention)
    return serve_flags({**shared, **own})


def _tell(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# -- ratios ---------------------------------------------------------------------------------------


def ratios(one: Measured, vanilla: Measured) -> dict[str, float]:
    """Medians over rounds of a setting's figures over those of vanilla in the same round."""
    pairs = list(zip(one.loaded, vanilla.loaded, strict=True))
    alone = list(zip(one.alone, vanilla.alone, strict=True))
    return {
        "peak": statistics.median(a.peak_running / b.peak_running for a, b in pairs),
        "tokens_per_second": statistics.median(
            a.tokens_per_second / b.tokens_per_second for a, b in pairs
        ),
        "mean_ttft": statistics.median(a.mean_ttft / b.mean_ttft for a, b in pairs),
        "median_ttft": statistics.median(a.median_ttft / b.median_ttft for a, b in pairs),
        "ttft_alone": statistics.median(a.median_ttft / b.median_ttft for a, b in alone),
        "prefill_alone": statistics.median(a.prefill / b.prefill for a, b in alone),
    }


def complaints(case: Case, every: Sequence[Measured]) -> list[str]:
    """What falls short of what was counted."""
    found = []
    for one in every[1:]:
        got, counted = ratios(one, every[0]), one.counted
        where = f"{case.vision} vision tokens, {one.name}"
        if got["peak"] < PEAK_BOUND * counted.block_ratio:
            found.append(
                f"{where}: {got['peak']:.2f} times as many requests at once, "
                f"blocks promise {counted.block_ratio:.2f}"
            )
        if got["prefill_alone"] > PREFILL_BOUND * counted.flops_ratio:
            found.append(
                f"{where}: prefill takes {got['prefill_alone']:.3f} of vanilla's time, "
                f"FLOPs promise {counted.flops_ratio:.3f}"
            )
    return found


# -- output ---------------------------------------------------------------------------------------


def table(case: Case, every: Sequence[Measured]) -> list[str]:
    """Figures, medians over rounds; in brackets their ratio to vanilla of the same round."""
    lines = [
        "| vision tokens | setting | requests at once | counted | output tokens/s | requests/s | "
        "TTFT mean, s | TTFT median, s | alone: TTFT, s | alone: prefill, s | FLOPs |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in every:
        got = ratios(one, every[0])
        cells = [
            _cell(one.loaded, "peak_running", got["peak"], ".0f"),
            f"{one.counted.fitting} ({one.counted.block_ratio:.2f})",
            _cell(one.loaded, "tokens_per_second", got["tokens_per_second"], ".1f"),
            _cell(one.loaded, "requests_per_second", None, ".2f"),
            _cell(one.loaded, "mean_ttft", got["mean_ttft"], ".2f"),
            _cell(one.loaded, "median_ttft", got["median_ttft"], ".2f"),
            _cell(one.alone, "median_ttft", got["ttft_alone"], ".2f"),
            _cell(one.alone, "prefill", got["prefill_alone"], ".2f"),
            f"({one.counted.flops_ratio:.3f})",
        ]
        lines.append(f"| {case.vision:,} | {one.name} | {' | '.join(cells)} |")
    return lines


def _cell(loads: Sequence[Load], name: str, ratio: float | None, form: str) -> str:
    text = format(statistics.median(getattr(load, name) for load in loads), form)
    return text if ratio is None else f"{text} ({ratio:.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    options = _options(arguments)
    cases = SMALL if options.small else CASES
    cases = tuple(case for case in cases if not options.vision or case.vision in options.vision)
    lines, problems, told = [], [], []
    began = time.monotonic()
    for case in cases:
        every = run_case(case, options.retention, options)
        rows = table(case, every)
        lines += rows if not lines else rows[2:]
        problems += complaints(case, every)
        told.append(
            {
                **asdict(case),
                "vision_tokens": case.vision,
                "settings": [{**one.to_dict(), "ratios": ratios(one, every[0])} for one in every],
            }
        )
    lines += ["", _footer(options)]
    print("\n".join(lines))
    for problem in problems:
        print(problem, file=sys.stderr)
    data = {
        "machine": machine(),
        "options": settings(options),
        "seconds": time.monotonic() - began,
        "cases": told,
        "problems": problems,
    }
    if options.json:
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, MARK, "\n".join(lines))
    return 1 if problems else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a short look: few requests, one size")
    parser.add_argument("--retention", type=float, nargs="*", default=[0.55, 0.35])
    parser.add_argument("--rounds", type=int, default=None, help="2, or 1 with --small")
    parser.add_argument("--dtype", choices=list(VALUE_BYTES), default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="nothing compiled, in all settings")
    parser.add_argument("--vision", type=int, nargs="*", help="of the sizes, those alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.small else 2)
    options.eager = options.eager or options.small
    return options


def _footer(options: argparse.Namespace) -> str:
    from vllm import __version__

    return (
        f"Equal bytes of KV cache within a size; in brackets the ratio to vanilla, medians over "
        f"{options.rounds} rounds in turns; {options.dtype}, "
        f"{'eager' if options.eager else 'compiled'}; vLLM {__version__}, {machine()}."
    )


if __name__ == "__main__":
    sys.exit(main())
