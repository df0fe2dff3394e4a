"""Greedy answers: of a batch, and one under a session, timed."""

from __future__ import annotations

import time
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


def greedy(model: Any, processor: Any, inputs: Any, max_new_tokens: int) -> list[str]:
    """Greedy answers to one left-padded batch of inputs."""
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]
