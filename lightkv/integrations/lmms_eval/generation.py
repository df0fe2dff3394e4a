"""What a task's `generation_kwargs` mean: options of `generate`, numbers as text, stop strings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from lightkv.core.errors import ConfigError

SAMPLING = ("temperature", "top_p", "top_k")
NOT_OURS = ("do_sample", "use_cache", "pad_token_id", "transformers_version", *SAMPLING)
"""Decided here, or no option of a single answer."""
FORMS = ("return_dict_in_generate", "output_", "compile_config", "disable_compile", "_")
"""How the names of options begin that change what `generate` returns or how, and not the answer."""
WHOLE = {
    **dict.fromkeys(("max_new_tokens", "max_length", "num_beams", "num_return_sequences"), 1),
    **dict.fromkeys(("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size"), 0),
}
"""Option → its least value."""
DECIMAL = (
    *("temperature", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "length_penalty", "diversity_penalty", "guidance_scale", "max_time"),
    "penalty_alpha",
)
NOTHING = ("", "none", "null")
"""Texts for an option that is not set."""


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


def checked(key: str, value: Any) -> Any:
    """The value as its type; None where a text says that there is none. Other keys are left alone.

    Raises:
        ConfigError: something else than the number, or the true or false, that the key takes.
    """
    if key not in WHOLE and key not in DECIMAL and key != "do_sample":
        return value
    if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return None
    if key == "do_sample":
        return _switch(key, value)
    number = _number(value)
    if number is None:
        raise _wrong(key, value, "not a number")
    if key in DECIMAL:
        return value if isinstance(value, int | float) else number
    if number != int(number) or number < WHOLE[key]:
        raise _wrong(key, value, f"must be a whole number, {WHOLE[key]} or more")
    return int(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _switch(key: str, value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise _wrong(key, value, "must be true or false")
    return text == "true"


def _wrong(key: str, value: Any, what: str) -> ConfigError:
    return ConfigError(
        what,
        field=f"generation_kwargs.{key}",
        value=value,
        remedy="change it in the task, or with --gen_kwargs",
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
