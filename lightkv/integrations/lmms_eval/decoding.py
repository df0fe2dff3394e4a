"""Generation options of tasks, stop strings, and scores of given answers by forced decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
)

from lightkv.core.errors import ConfigError
from lightkv.integrations.lmms_eval.numbers import checked

SAMPLING = ("temperature", "top_p", "top_k")
NOT_OURS = ("do_sample", "use_cache", "pad_token_id", "transformers_version", *SAMPLING)
"""Decided here, or no option of a single answer."""
FORMS = ("return_dict_in_generate", "output_", "compile_config", "disable_compile", "_")
"""How the names of options begin that change what `generate` returns or how, and not the answer."""


def stop_strings(until: object) -> list[str]:
    """Where answers end, from a task's `until`: a string, a list or nothing.

    Raises:
        ConfigError: anything else.
    """
    if until is None:
        return []
    found = [until] if isinstance(until, str) else until
    if not isinstance(found, (list, tuple)) or not all(
        text is None or isinstance(text, str) for text in found
    ):
        raise ConfigError(
            "a string or a list of strings ends an answer",
            field="generation_kwargs.until",
            value=until,
        )
    return [text for text in found if text]


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def generation_options(given: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Arguments of `generate` for a task's `generation_kwargs`; greedy unless it asks to sample.

    Sampling takes a temperature above 0 and no `do_sample: false`. Greedy decoding switches off
    what the checkpoint's own defaults say of sampling. Keys that are no generation option of
    transformers (`image_aspect_ratio`) are left out: they speak to other models of lmms-eval.

    Args:
        given: of the task. YAML reads `1e-5` as a text, and so does the command line: numbers may be
            texts.
        max_new_tokens: if the task names none.

    Raises:
        ConfigError: a number that is none, several answers to one request, or `stop_strings`.
    """
    given = {key: checked(key, value) for key, value in given.items()}
    _check_answers(given)
    sample = (given.get("temperature") or 0.0) > 0 and given.get("do_sample") is not False
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": bool(sample)}
    for key in SAMPLING:
        options[key] = given.get(key) if sample else None
    if sample:
        options = {key: value for key, value in options.items() if value is not None}
    known = GenerationConfig().to_dict()  # type: ignore[no-untyped-call]
    for key, value in given.items():
        ours = key in known and key not in NOT_OURS and not key.startswith(FORMS)
        if ours and value is not None:
            options[key] = value
    return options


def _check_answers(given: Mapping[str, Any]) -> None:
    """Refuse what would give other answers than the task means, or other numbers of them."""
    if (given.get("num_return_sequences") or 1) > 1:
        raise ConfigError(
            "one request has one answer",
            field="generation_kwargs.num_return_sequences",
            value=given["num_return_sequences"],
            remedy="leave it out of the task and of --gen_kwargs",
        )
    if given.get("stop_strings") is not None:
        raise ConfigError(
            "answers end at the task's until",
            field="generation_kwargs.stop_strings",
            value=given["stop_strings"],
            remedy="name the strings under until",
        )


class StopAt(StoppingCriteria):
    """Ends each row whose new text holds one of the stop strings.

    Looks at the text: the criterion of transformers looks at the vocabulary's pieces, and fails on
    tokenizers that mark no word beginnings.

    Args:
        tokenizer: of the model.
        stops: where answers end.
        prompt: tokens of the padded prompt, which may hold stop strings itself.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """For each row of `[B, N]` whether it has ended: ``[B]``."""
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt :], skip_special_tokens=True)
        ended = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


class Forced(LogitsProcessor):
    """Makes `generate` write given answers, and keeps how likely the model found each token.

    Forced decoding and not a second pass over the answer: `generate` knows the positions of every
    family, and strategies that compress before the decoder allow no second pass.

    Args:
        answers: token ids of each row's answer, none empty.
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
        likely = scores.float().log_softmax(-1)
        best = scores.argmax(-1).tolist()
        out = torch.full_like(scores, -float("inf"))
        for row, answer in enumerate(self.answers):
            token = answer[self.step] if self.step < len(answer) else self.pad
            if self.step < len(answer):
                self.log_likelihoods[row].append(float(likely[row, token]))
                self.greedy[row] &= best[row] == token
            out[row, token] = 0.0
        self.step += 1
        return out


def score_answers(
    model: Any, inputs: Any, answers: Sequence[Sequence[int]], pad: int
) -> list[tuple[float, bool]]:
    """For each row the mean negative log-likelihood of its answer's tokens, and if it is greedy.

    Args:
        model: any model with `generate`, also inside a session: the prompt is then compressed, and
            the answer is scored on the compressed cache.
        inputs: a left-padded batch.
        answers: token ids, one list a row.
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
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList([forced]),
        )
    means = [-sum(found) / len(found) for found in forced.log_likelihoods]
    return list(zip(means, forced.greedy, strict=True))
