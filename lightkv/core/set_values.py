"""Single values of plain data, set from outside: `task.scenes` → 20, `matcher.metric` → keys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from lightkv.core.errors import ConfigError, check_known

WriteOut = Callable[[str, str], dict[str, Any]]
"""(key, name that stands under it) → what the name stands for, so that a place may lead into it."""


def named(key: str, name: str) -> dict[str, Any]:
    """A component or a task that is given by its name alone."""
    return {"name": name}


def overridden(
    data: Any,
    changes: Mapping[str, Any],
    error: type[ConfigError],
    field: str,
    write_out: WriteOut = named,
) -> Any:
    """Plain data with other values at some places.

    Args:
        data: a mapping, as read from a file; it is left as it is.
        changes: place → value. A place is keys with dots between them, numbers in lists; a key may have
            dots itself. On the way to a parameter a name is written out. A last key may be new.
        error: its class.
        field: that errors name.
        write_out: what a name stands for; by default `{name: …}`.

    Raises:
        ConfigError: as `error`, a place that there is not.
    """
    data = copy.deepcopy(data)
    for place, value in changes.items():
        _set(data, place, place, value, error, field, write_out)
    return data


def _set(
    data: Any,
    place: str,
    rest: str,
    value: Any,
    error: type[ConfigError],
    field: str,
    write_out: WriteOut,
) -> None:
    """Set what is at `rest` of a part; `place` is the whole, for errors."""
    if isinstance(data, list):
        first, _, behind = rest.partition(".")
        check_known(error, "the list has no such place", field, first, map(str, range(len(data))))
        key: Any = int(first)
    elif isinstance(data, dict):
        key, behind = _key(data, rest)
    else:
        raise error(
            "there is nothing below it to set",
            field=field,
            value=place,
            remedy="set the whole of it, as in KEY={name: …}",
        )
    if not behind:
        data[key] = value
        return
    if isinstance(data, dict) and key not in data:
        check_known(error, "there is nothing of that name to go into", field, key, map(_text, data))
    if isinstance(data[key], str):
        data[key] = write_out(_text(key), data[key])
    elif data[key] is None:
        data[key] = {}
    _set(data[key], place, behind, value, error, field, write_out)


def _key(data: dict[Any, Any], rest: str) -> tuple[Any, str]:
    """The longest key that `rest` begins with, and what is behind it; a new key where there is none."""
    texts = {_text(key): key for key in data}
    parts = rest.split(".")
    for number in range(len(parts), 0, -1):
        begin = ".".join(parts[:number])
        if begin in texts:
            return texts[begin], ".".join(parts[number:])
    return parts[0], ".".join(parts[1:])


def _text(key: Any) -> str:
    """YAML reads `on` and `off` as truth values, and numbers as numbers."""
    if isinstance(key, bool):
        return "on" if key else "off"
    return f"{key:g}" if isinstance(key, float) else str(key)
