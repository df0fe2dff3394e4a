"""How likely a model finds given answers, by forced decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList


class Forced(LogitsProcessor):
    """Makes `generate` write given answers, and keeps how likely the model found each token.

    Forced decoding and not a second pass over the answer: `generate` knows the positions of every
    family, and strategies that compress before the decoder allow no second pass.

    Args:
        answers: token ids of each row's answer.
        pad: written behind shorter answers.

    Attributes:
        log_likelihoods: of the tokens of each row, one list a row.
        greedy: whether each row's answer is the greedy one.
    """

    def __init__(self, answers: Sequence[Sequence[int]], pad: int) -> None:
        self.answers = answers
        self.pad = pad
        self.step = 0
        self.log_likelihoods: list[list[float]] = [[] for _ in answers]
        self.greedy = [True] * len(answers)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, vocabulary]` in which only the next token of each answer is possible."""
        ids = [
            answer[self.step] if self.step < len(answer) else self.pad for answer in self.answers
        ]
        tokens = torch.tensor(ids, device=scores.device).unsqueeze(1)
        likely = scores.float().log_softmax(-1).gather(1, tokens).squeeze(1).tolist()
        best = scores.argmax(-1).tolist()
        for row, answer in enumerate(self.answers):
            if self.step < len(answer):
                self.log_likelihoods[row].append(likely[row])
                self.greedy[row] &= best[row] == ids[row]
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)


def forced_answers(
    model: Any, inputs: Any, answers: Sequence[Sequence[int]], pad: int
) -> list[tuple[list[float], bool]]:
    """For each row the log-likelihoods of its answer's tokens, and whether it is the greedy answer.

    Args:
        model: any model with `generate`, also inside a session: the prompt is then compressed, and
            the answer is scored on the compressed cache.
        inputs: a left-padded batch.
        answers: token ids, one list a row, not all of them empty.
        pad: id of the padding token.
    """
    forced = Forced(answers, pad)
    longest = max(len(answer) for answer in answers)
    with torch.no_grad():
        model.generate(
            **inputs,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # whatever the checkpoint says: it would bend the likelihoods
            no_repeat_ngram_size=0,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([forced]),
        )
    return list(zip(forced.log_likelihoods, forced.greedy, strict=True))
