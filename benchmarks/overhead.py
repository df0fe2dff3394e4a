"""What an attached session costs when it removes nothing (ratio 0), in prefill and in decoding.

    python benchmarks/overhead.py [--side 48] [--width 256] [--rounds 15] [--decode 12] [--threads 1]
        [--json FILE] [--write docs/performance.md]

The same model with and without a `lightkv` session whose three stages have ratio 0, rounds interleaved,
on a LLaVA of 32 layers and on the bundled model. A ratio is that of two runs of one round (in random
order within the round); its median is reported with a 95 % interval by bootstrap over the rounds. The
time is that of the process, so that other work on the machine does not count. Width makes a layer
dearer and the session not: the narrower the model, the larger the share that is shown here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from end_to_end import VANILLA, Runner
from report import fill, machine, settings
from wide import prompt_inputs, wide_llava

from lightkv.core.run.session import prepare

RESAMPLES = 10_000


def ratios(runner: Runner, rounds: int, decode: int) -> dict[str, np.ndarray[Any, Any]]:
    """Ratio of each round, of the prefill and of a decode step."""
    rng, found = random.Random(0), []
    names = [VANILLA, "attached"]
    for name in names:
        runner.timed(name, decode)
    for _ in range(rounds):
        rng.shuffle(names)
        times = {name: runner.timed(name, decode) for name in names}
        found.append([a / b for a, b in zip(times["attached"], times[VANILLA], strict=True)])
    table = np.array(found)
    return {"prefill": table[:, 0], "decode": table[:, 1]}


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Median and its 95 % interval by bootstrap."""
    rng = np.random.default_rng(0)
    again = np.median(rng.choice(values, size=(RESAMPLES, values.size)), axis=1)
    low, high = np.percentile(again, [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def idle_session(model: Any) -> Any:
    """Three stages that remove nothing, at the depths of retention 0.55."""
    stages = prepare(model, "lightkv", retention=0.55).pipeline.schedule.stages
    schedule = [{"after_layer": s.after_layer, "ratio": 0.0, "windows": s.windows} for s in stages]
    return prepare(model, "lightkv", schedule=schedule)


def bundled() -> tuple[Any, dict[str, torch.Tensor]]:
    """The bundled model and one question about a held-out scene."""
    from lightkv.demo.model import load
    from lightkv.demo.scenes import held_out_scenes, prompt

    model, processor = load()
    scene, questions = held_out_scenes(1, 2026)[0]
    inputs = processor(images=scene.image, text=prompt(questions[0].text), return_tensors="pt")
    return model, dict(inputs)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=48, help="side² vision tokens")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--decode", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wide = wide_llava(options.side, width=options.width)
    small, question = bundled()
    cases = {
        f"32 layers, width {options.width}, {options.side**2:,} vision tokens": (
            wide,
            prompt_inputs(wide, options.side),
            options.rounds,
        ),
        "bundled model, 144 vision tokens": (small, question, 8 * options.rounds),
    }
    lines = ["| model | prefill | decode step |", "|---|---|---|"]
    data: dict[str, Any] = {"machine": machine(), "options": settings(options), "cases": {}}
    for label, (model, inputs, rounds) in cases.items():
        runner = Runner(model, inputs, {"attached": idle_session(model)}, time.process_time)
        found = ratios(runner, rounds, options.decode)
        parts = {name: interval(values) for name, values in found.items()}
        data["cases"][label] = {
            name: {"median": m, "low": low, "high": high, "ratios": found[name].tolist()}
            for name, (m, low, high) in parts.items()
        }
        cells = [
            f"{100 * (m - 1):+.1f} % [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}]"
            for m, low, high in parts.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    text = "\n".join(
        [*lines, "", f"{options.rounds} rounds (bundled: 8 times as many); {machine()}."]
    )
    print(text)
    if options.json:
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, "OVERHEAD", text)


if __name__ == "__main__":
    main()
