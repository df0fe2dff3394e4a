"""Arguments of `LLM(…)` as flags of `vllm serve`, and as the file that its `--config` reads.

Mappings are written with dots (`--additional-config.lightkv.retention 0.55`), as vLLM's parser takes
them. So the usual flags hold nothing that a shell changes: they can be pasted, and they can be
substituted, where a shell would take quotes for characters. What needs quotes goes into a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightkv.core import yamls

_WORD = re.compile(r"[A-Za-z_/.][\w/.:@%+=-]*", re.ASCII)
"""A text that no shell changes, and that vLLM's parser takes for no number."""
_VALUES = ("true", "false", "null", "NaN", "Infinity")
"""Words that JSON reads as something else."""


def serve_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Words behind `vllm serve MODEL` that say the same; the model is no flag.

    Args:
        arguments: of `vllm.LLM`: plain data.
    """
    flags: list[str] = []
    for name, value in arguments.items():
        if name != "model":
            flags += _flag(f"--{name.replace('_', '-')}", value)
    return flags


def serve_config(arguments: Mapping[str, Any]) -> str:
    """YAML for `vllm serve --config FILE` that says the same, the model included.

    A false value is written as the flag that says so: vLLM forgets `name: false` of a subcommand.
    """
    lines: dict[str, Any] = {}
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        lines.update({f"no-{flag}": True} if value is False else {flag: value})
    return yamls.dump(lines)


def plain_word(word: str) -> bool:
    """Whether a flag or its value reads the same to a program, a shell and a substitution."""
    return bool(re.fullmatch(r"[\w/.:@%+=,-]+", word, re.ASCII))


def _flag(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
    elif isinstance(value, Mapping) and value:
        yield from _inner(flag, value)
    elif isinstance(value, (list, tuple)):
        yield flag
        yield from map(str, value)
    else:
        yield flag
        yield value if isinstance(value, str) else json.dumps(value)


def _inner(flag: str, value: Any) -> Iterator[str]:
    """A mapping or what is in it; what is no word and no number is JSON."""
    if isinstance(value, Mapping) and value and not any("." in str(key) for key in value):
        for key, inner in value.items():
            yield from _inner(f"{flag}.{key}", inner)
    elif isinstance(value, str):
        yield flag
        yield value if _is_text(value) else json.dumps(value)
    elif isinstance(value, (list, tuple)) and value and all(map(_is_text, value)):
        yield f"{flag}+"
        yield ",".join(value)
    else:
        yield flag
        yield json.dumps(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value)) and value not in _VALUES
