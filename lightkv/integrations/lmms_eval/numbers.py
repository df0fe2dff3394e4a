"""Values of a task's `generation_kwargs`, which may come as text."""

from __future__ import annotations

import math
from typing import Any

from lightkv.core.errors import ConfigError

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
