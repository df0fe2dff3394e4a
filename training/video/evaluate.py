"""Held-out accuracy of a trained second model: ``python -m training.video.evaluate CHECKPOINT``.

Greedy generation on pictures, pairs and clips made of test scans, each kind of question apart, as the
model is and under presets: ``--strategies random,lightkv --retention 0.35``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

import lightkv
from lightkv.demo.asking import answer_about
from lightkv.demo.clips import Clip, held_out_clips
from lightkv.demo.compare import VANILLA, Accuracy
from lightkv.demo.native import Pair, held_out_pairs, held_out_pictures
from lightkv.demo.processing import load_processor
from lightkv.demo.scenes import Question, Scene, score


def samples(count: int, seed: int) -> Iterator[tuple[str, Scene | Pair | Clip, list[Question]]]:
    """Held-out samples of each group in turn, with the group's name."""
    for group, held_out in (
        ("picture", held_out_pictures),
        ("pair", held_out_pairs),
        ("clip", held_out_clips),
    ):
        for seen, questions in held_out(count, seed):
            yield group, seen, questions


def evaluate(
    model: Any, processor: Any, count: int, seed: int, strategies: Sequence[str], retention: float
) -> dict[str, dict[str, Accuracy]]:
    """Accuracy by strategy and by "group/kind", `VANILLA` first."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in (VANILLA, *strategies)}
    for group, seen, questions in samples(count, seed):
        short = [question for question in questions if question.kind != "list"]
        lists = [question for question in questions if question.kind == "list"]
        for name, found in scores.items():
            for asked in (short, lists):
                if not asked:
                    continue
                session: Any = nullcontext()
                if name != VANILLA:
                    session = lightkv.compress(model, name, retention=retention)
                with session:
                    answers = answer_about(model, processor, seen, asked)
                for question, answer in zip(asked, answers, strict=True):
                    kind = f"{group}/{question.kind}"
                    found.setdefault(kind, []).append(score(question, answer))
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
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model = AutoModelForImageTextToText.from_pretrained(given.checkpoint, local_files_only=True)
    names = [name for name in given.strategies.split(",") if name]
    processor = load_processor(given.checkpoint)
    found = evaluate(model.eval(), processor, given.samples, given.seed, names, given.retention)
    print(f"| question | n | {' | '.join(found)} |")
    print("|---|---|" + "---|" * len(found))
    for kind, accuracy in found[VANILLA].items():
        cells = " | ".join(f"{100 * row[kind].mean:.1f}" for row in found.values())
        print(f"| {kind} | {accuracy.questions} | {cells} |")


if __name__ == "__main__":
    main()
