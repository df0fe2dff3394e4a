"""A chat of three turns about two pictures on one cache, with the bundled model.

    python benchmarks/two_turns.py [--chats 100] [--retention 0.55] [--json FILE]

Turn 1 shows a picture and asks; turn 2 shows another picture and asks about that one; turn 3 asks
again, in text only. Every turn goes on with the cache that the turn before left, so the second
picture is compressed on top of a cache whose layers differ in length already. Printed: the transcript
of the first chat, uncompressed and compressed, the tokens in each layer's cache, and how many answers
were right over all chats. The model was trained on single pictures and single questions, so the
uncompressed model itself is not at its best here; the comparison is with it. Strategies are those that
a second turn allows: none of their stages stands before the first layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import lightkv
from lightkv.core.pipeline.pipeline import PipelineSource, resolve_spec
from lightkv.demo.compare import GENTLE
from lightkv.demo.model import load
from lightkv.demo.scenes import Question, Scene, held_out_scenes, prompt

KINDS = ("color_to_digit", "digit_to_color")
STRATEGIES: tuple[PipelineSource, ...] = ("lightkv", GENTLE, "lightkv-plus")
Turn = tuple[Scene | None, Question]


def chats(number: int) -> Iterator[list[Turn]]:
    """Three turns each, of scenes that have both kinds of question."""
    scenes = held_out_scenes(2 * number, seed=31)
    for (one, asked), (two, others) in zip(scenes[::2], scenes[1::2], strict=True):
        first, second, third = (
            next(q for q in questions if q.kind == kind)
            for questions, kind in ((asked, KINDS[0]), (others, KINDS[1]), (others, KINDS[0]))
        )
        yield [(one, first), (two, second), (None, third)]


def talk(model: Any, processor: Any, turns: list[Turn]) -> tuple[list[str], list[int]]:
    """The answers, and the tokens that each layer has cached in the end."""
    history, cache, answers = None, None, []
    for scene, question in turns:
        text = prompt(question.text)
        if scene is None:
            text = text.replace("<image> ", "")
        pictures = {} if scene is None else {"images": scene.image}
        batch = processor(**pictures, text=text, return_tensors="pt")
        ids = batch.pop("input_ids")
        batch.pop("attention_mask")
        history = ids if history is None else torch.cat([history, ids[:, 1:]], dim=1)
        out = model.generate(
            input_ids=history,
            attention_mask=torch.ones_like(history),
            **batch,
            past_key_values=cache,
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
        )
        cache, history = out.past_key_values, out.sequences
        answers.append(processor.tokenizer.decode(history[0, -1]))
    return answers, [layer.get_seq_length() for layer in cache.layers]


def compressed(
    model: Any, strategy: PipelineSource | None, retention: float
) -> AbstractContextManager[object]:
    """A session, or nothing."""
    if strategy is None:
        return nullcontext()
    return lightkv.compress(model, resolve_spec(strategy), retention=retention)


def show(turns: list[Turn], answers: list[str], lengths: list[int]) -> None:
    """One chat as text."""
    for number, ((scene, question), answer) in enumerate(zip(turns, answers, strict=True), start=1):
        picture = "" if scene is None else "<picture> "
        wanted = "" if answer == question.answer else f"   (right: {question.answer})"
        print(f"  turn {number}  user: {picture}{question.text}")
        print(f"          assistant: {answer}{wanted}")
    print(f"  tokens cached per layer: {lengths}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chats", type=int, default=100)
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, processor = load()
    found: dict[str, list[float]] = {}
    for strategy in (None, *STRATEGIES):
        name = "uncompressed" if strategy is None else resolve_spec(strategy).name
        right = torch.zeros(3)
        with compressed(model, strategy, options.retention):
            for number, turns in enumerate(chats(options.chats)):
                answers, lengths = talk(model, processor, turns)
                right += torch.tensor(
                    [a == q.answer for a, (_, q) in zip(answers, turns, strict=True)]
                )
                if number == 0:
                    print(name if strategy is None else f"{name}, retention {options.retention}")
                    show(turns, answers, lengths)
        found[name] = (right / options.chats).tolist()
    print(f"\nright answers in turns 1, 2, 3 of {options.chats} chats")
    for name, shares in found.items():
        print(f"  {name:<13}" + "".join(f"{100 * share:7.1f} %" for share in shares))
    if options.json:
        facts = {"chats": options.chats, "retention": options.retention, "right": found}
        options.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
