"""What lightkv costs the host inside vLLM: processor time of its own Python, by request and by step.

    python benchmarks/vllm/host.py [--questions 138] [--pipeline lightkv] [--retention 0.55] [--rounds 3]

The bundled model answers the same questions without and with lightkv in turn, one thread, in this
process.
Times are the processor's, so other programs disturb them little. The second table says where lightkv's
part goes: each function with all that it calls, tensors included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from server import ENVIRONMENT  # noqa: E402

os.environ.update({**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
from compare import Setting, checkpoint, engine, engine_prompt, questions  # noqa: E402

spent: dict[str, list[float]] = defaultdict(list)


def timed(owner: Any, name: str, label: str) -> None:
    """Note the processor time of a function."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[label].append(time.process_time() - start)

    setattr(owner, name, outer)


def watch() -> None:
    """Time what the integration does in a step."""
    from lightkv.core.pipeline import placed
    from lightkv.core.run import prefill
    from lightkv.integrations.vllm import attention, decoder, requests, step

    timed(requests.Requests, "look", "a request's pictures and counts (scheduler, worker)")
    timed(step.Step, "__init__", "a step's rows")
    timed(step.Step, "slots", "slots of a segment")
    timed(attention, "_of_segment", "metadata of a segment")
    timed(decoder.Pass, "__init__", "layouts and batches of a compressing step")
    timed(decoder.Pass, "_stage", "a stage between layers, all batches")
    timed(prefill, "run_stage", "of it: a batch, scoring to merging")
    timed(placed.PlacedStage, "plan", "of it: tables that were not there yet")
    timed(decoder.Pass, "_view", "query and key of a batch")


def alone() -> None:
    """Let no two requests look alike, as if nothing were batched and no table kept."""
    from dataclasses import replace

    from lightkv.integrations.vllm import requests

    inner, numbers = requests.Requests.look, itertools.count()

    def unlike(self: Any, *args: Any) -> Any:
        entry = inner(self, *args)
        return entry and replace(entry, spans=(*entry.spans, next(numbers)))

    requests.Requests.look = unlike  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=138)
    parser.add_argument("--pipeline", default="lightkv")
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--alone", action="store_true", help="each request for itself, all tables made anew"
    )
    given = parser.parse_args()
    from vllm import SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        plain = engine(Setting(None), checkpoint(folder, renamed=True))
    own = engine(
        Setting(given.pipeline, {"retention": given.retention}), checkpoint("", renamed=False)
    )
    prompts = [engine_prompt(*each) for each in questions(given.questions)]
    sampling = SamplingParams(temperature=0, max_tokens=16)

    def run(llm: Any) -> float:
        start = time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False)
        return time.process_time() - start

    if given.alone:
        alone()
    run(plain), run(own)
    watch()
    times = [(run(plain), run(own)) for _ in range(given.rounds)]
    ratio = statistics.median(ours / theirs for theirs, ours in times)
    print(f"{given.questions} questions, {given.rounds} rounds")
    print(f"processor time with lightkv / without: {ratio:.2f}")
    for theirs, ours in times:
        print(f"  {theirs:.2f} s without, {ours:.2f} s with")
    print("\n| part | calls | µs each | ms for a request |")
    print("|---|---|---|---|")
    asked = given.questions * given.rounds
    for label, found in spent.items():
        each, total = sum(found) / len(found) * 1e6, sum(found) / asked * 1e3
        print(f"| {label} | {len(found)} | {each:.0f} | {total:.3f} |")


if __name__ == "__main__":
    main()
