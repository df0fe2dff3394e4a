"""How much of LightKV sees the question: provenance weights of one image under two questions.

    python benchmarks/prompt_awareness.py [--scenes 200] [--retention 0.55] [--json FILE]

For each held-out scene two questions name different digits ("what digit is red ?", "what digit is
blue ?"). An image that stands before the question can't attend to it, so the first stage's matching
is the same for both; only the weights of the merge see the prompt. Reported for each scorer:

* whether the first stage's assignment of tokens to slots is the same for both questions;
* the mean and largest absolute difference of the weights of merged tokens;
* the gain: the weight of the asked digit's patch in its group when the question names it, minus its
  weight when the question names the other digit; mean and 95 % interval over digits whose patch was
  merged with others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lightkv
from lightkv.demo.model import load
from lightkv.demo.scenes import GRID, Scene, held_out_scenes, prompt

SCORERS: dict[str, Any] = {
    "prompt, over queries": "prompt-attention",
    "prompt, over keys": {"name": "prompt-attention", "normalize": "keys"},
    "causal text-to-vision": "causal-attention",
    "last token": "last-token",
    "uniform": "uniform",
}


def stage_weights(
    run: lightkv.Session, model: Any, processor: Any, scene: Scene, text: str
) -> list[lightkv.Assignment]:
    """First-stage and total assignment of one prefill."""
    inputs = processor(images=scene.image, text=prompt(text), return_tensors="pt")
    with torch.no_grad():
        model(**inputs, logits_to_keep=1)
    trace = run.last.trace
    assert trace is not None
    return [trace[0], run.last.provenance()]


def compare_questions(
    run: lightkv.Session, model: Any, processor: Any, scenes: list[Scene]
) -> dict[str, dict[str, Any]]:
    """Differences between two questions on each scene, first stage and all stages."""
    rows: dict[str, dict[str, list[float]]] = {
        name: {"same": [], "mean": [], "max": [], "gain": []} for name in ("first stage", "all")
    }
    for scene in scenes:
        asked = scene.digits[:2]
        both = [
            stage_weights(run, model, processor, scene, f"what digit is {digit.color} ?")
            for digit in asked
        ]
        for name, one, other in zip(rows, *both, strict=True):
            note(rows[name], one, other, [d.patch[0] * GRID + d.patch[1] for d in asked])
    return {name: summary(values) for name, values in rows.items()}


def note(
    rows: dict[str, list[float]],
    one: lightkv.Assignment,
    other: lightkv.Assignment,
    patches: list[int],
) -> None:
    """Add one scene's differences to `rows`."""
    rows["same"].append(float(torch.equal(one.slot, other.slot)))
    sizes = [a.group_sizes()[a.slot.clamp(min=0)] for a in (one, other)]
    merged = (one.slot >= 0) & (sizes[0] > 1)
    difference = (one.weight - other.weight).abs()[merged]
    rows["mean"].append(difference.mean().item())
    rows["max"].append(difference.max().item())
    for patch, asked, not_asked, size in (
        (patches[0], one, other, sizes[0]),
        (patches[1], other, one, sizes[1]),
    ):
        if size[patch] > 1:
            rows["gain"].append((asked.weight[patch] - not_asked.weight[patch]).item())


def summary(rows: dict[str, list[float]]) -> dict[str, Any]:
    """Means, and the gain with a 95 % normal interval."""
    gain = np.array(rows["gain"])
    interval = None
    if gain.size > 1:
        half = 1.96 * gain.std(ddof=1) / np.sqrt(gain.size)
        interval = [float(gain.mean() - half), float(gain.mean() + half)]
    return {
        "same_matching": float(np.mean(rows["same"])),
        "mean_weight_difference": float(np.mean(rows["mean"])),
        "max_weight_difference": float(np.max(rows["max"])),
        "gain": float(gain.mean()) if gain.size else None,
        "gain_interval": interval,
        "digits_merged": int(gain.size),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, processor = load()
    scenes = [scene for scene, _ in held_out_scenes(4 * options.scenes, options.seed)]
    scenes = [scene for scene in scenes if len(scene.digits) >= 2][: options.scenes]
    results: dict[str, Any] = {}
    for name, scorer in SCORERS.items():
        with lightkv.compress(
            model, "lightkv", retention=options.retention, scorer=scorer, trace=True
        ) as run:
            results[name] = compare_questions(run, model, processor, scenes)
        for part, row in results[name].items():
            gain = "no asked digit was merged"
            if row["gain_interval"] is not None:
                low, high = row["gain_interval"]
                gain = f"gain {row['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
            print(
                f"{name:>22} | {part:>11} | same matching {row['same_matching']:.3f} | "
                f"|dw| mean {row['mean_weight_difference']:.4f} max "
                f"{row['max_weight_difference']:.3f} | {gain} ({row['digits_merged']} digits)",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"scenes": len(scenes), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
