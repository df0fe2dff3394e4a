"""Held-out accuracy of a trained second model: ``python -m training.video.evaluate CHECKPOINT``.

Greedy generation on pictures, pairs and clips made of test scans, each kind of question apart, as the
model is and under presets: ``--strategies random,lightkv --retention 0.35``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from lightkv.checkpoints.clip_processor import load_processor
from lightkv.demo.compare import VANILLA, Accuracy
from lightkv.lab import Subject, Task, build_task
from lightkv.lab.grids.cells import probe_of

GROUPS = {"picture": "pictures", "pair": "pairs", "clip": "clips"}
"""Name in the table → task of the lab, whose number of samples has the same name."""


def tasks_of(groups: Sequence[str], count: int, seed: int) -> Iterator[tuple[str, Task]]:
    """The lab's tasks, with the names of their groups."""
    for group in groups:
        name = GROUPS[group]
        yield group, build_task({"name": name, name: count, "seed": seed})


def evaluate(
    model: Any,
    processor: Any,
    count: int,
    seed: int,
    strategies: Sequence[str],
    retention: float,
    groups: Sequence[str] = tuple(GROUPS),
) -> dict[str, dict[str, Accuracy]]:
    """Accuracy by strategy and by "group/kind", `VANILLA` first."""
    subject = Subject(model, processor)
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in (VANILLA, *strategies)}
    for group, task in tasks_of(groups, count, seed):
        samples = task.samples()
        for name, found in scores.items():
            pipeline = None if name == VANILLA else name
            wanted = None if name == VANILLA else retention
            with subject.compressed(pipeline, wanted, probe=probe_of(samples)):
                for one in task.evaluate(subject, samples):
                    found.setdefault(f"{group}/{one.kind}", []).append(one.score)
    return {
        name: {kind: Accuracy.of(values) for kind, values in found.items()}
        for name, found in scores.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=1000, help="of each group")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument(
        "--strategies", default="random", help="presets, comma between; may be empty"
    )
    parser.add_argument("--retention", type=float, default=0.35)
    parser.add_argument("--groups", nargs="+", choices=tuple(GROUPS), default=list(GROUPS))
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model = AutoModelForImageTextToText.from_pretrained(given.checkpoint, local_files_only=True)
    names = [name for name in given.strategies.split(",") if name]
    processor = load_processor(given.checkpoint)
    found = evaluate(
        model.eval(), processor, given.samples, given.seed, names, given.retention, given.groups
    )
    print(f"| question | n | {' | '.join(found)} |")
    print("|---|---|" + "---|" * len(found))
    for kind, accuracy in found[VANILLA].items():
        cells = " | ".join(f"{100 * row[kind].mean:.1f}" for row in found.values())
        print(f"| {kind} | {accuracy.questions} | {cells} |")


if __name__ == "__main__":
    main()
