"""Greedy answers: of a batch, one under a session, timed, and several of two sessions in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightkv.core.run.report import RunReport


@dataclass(frozen=True)
class Answer:
    """What one run of `generate` gave; `seconds` is its wall time, `tokens` how many it made."""

    text: str
    tokens: int
    seconds: float
    report: RunReport

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "answer": self.text,
            "new_tokens": self.tokens,
            "seconds": self.seconds,
            "report": self.report.to_dict(),
        }


def generate(session: Any, processor: Any, inputs: Any, max_new_tokens: int) -> Answer:
    """A greedy answer under a session that is not attached yet."""
    session.attach()
    try:
        start = time.perf_counter()
        with torch.no_grad():
            tokens = session.model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False
            )
        seconds = time.perf_counter() - start
    finally:
        session.detach()
    new = tokens[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return Answer(text, int(new.numel()), seconds, session.last)


RUNS = 3
"""Of each session that is compared: the fewest that have a median and a spread."""


@dataclass(frozen=True)
class Spread:
    """Seconds of several runs: their median, the shortest and the longest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least one run."""
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def overlaps(self, other: Spread) -> bool:
        """Whether some time may belong to both, so that their order may be chance."""
        return self.low <= other.high and other.low <= self.high


TIMES: dict[str, Callable[[Answer], float | None]] = {
    "first token": lambda answer: answer.report.time_to_first_token,
    "each further token": lambda answer: answer.report.time_per_token,
    "whole answer": lambda answer: answer.seconds,
}
"""What is timed of an answer."""


@dataclass(frozen=True)
class Compared:
    """Answers to one prompt without compression and with it, as many of each, run in turns."""

    vanilla: tuple[Answer, ...]
    compressed: tuple[Answer, ...]

    @property
    def times(self) -> dict[str, tuple[Spread, Spread]]:
        """Of each of `TIMES` that both have: without compression, and with it."""
        found = {}
        for label, timed in TIMES.items():
            sides = [[timed(answer) for answer in side] for side in (self.vanilla, self.compressed)]
            old, new = ([seconds for seconds in side if seconds] for side in sides)
            if old and new:
                found[label] = Spread.of(old), Spread.of(new)
        return found


def typical(answers: Sequence[Answer]) -> Answer:
    """The one in the middle by the time to its first token."""
    ranked = sorted(answers, key=lambda answer: answer.report.time_to_first_token or 0.0)
    return ranked[len(ranked) // 2]


def in_turns(
    plain: Any, session: Any, processor: Any, inputs: Any, max_new_tokens: int
) -> Compared:
    """`RUNS` answers of a session without stages and of another one, in turns, timed.

    Each runs once before that, for a token: the first pass of all is slow, and stages are planned in it.
    """
    for each in (plain, session):
        generate(each, processor, inputs, 1)
    pairs = [
        [generate(each, processor, inputs, max_new_tokens) for each in (plain, session)]
        for _ in range(RUNS)
    ]
    vanilla, compressed = zip(*pairs, strict=True)
    return Compared(vanilla, compressed)


def greedy(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> list[str]:
    """Greedy answers to one left-padded batch of inputs."""
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]
