"""What differs between two sets of plain data, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 80
"""Characters of a value before it is cut."""


def difference(then: Any, now: Any) -> str:
    """The first key that differs, as it was and as it is."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*then, *(key for key in now if key not in then)]:
            if then.get(key) != now.get(key):
                return f"{key} {difference(then.get(key), now.get(key))}"
    return f"was {_short(then)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
