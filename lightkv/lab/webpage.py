"""What the pages that lightkv writes share: one HTML file each, which loads nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError, file_errors


def policy(images: str = "data:") -> str:
    """What a page may load, told to the browser: nothing but what it holds."""
    return (
        f"default-src 'none'; img-src {images}; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def write_text(path: str | Path, text: str, field: str) -> None:
    """Write a page.

    Args:
        field: what the user gave the path as, for the error.

    Raises:
        ConfigError: the file cannot be written.
    """
    remedy = "name a file in a folder that exists"
    with file_errors(ConfigError, "write the page", field, path, remedy):
        Path(path).write_text(text, encoding="utf-8")
