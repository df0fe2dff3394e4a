"""What the pages that lightkv writes share: one HTML file each, which loads nothing."""

from __future__ import annotations

import json
from importlib.resources import files
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


def rendered(template: str, *, style: str, script: str, data: Any, **values: Any) -> str:
    """A page with plots: a jinja template that fills the blocks of `frame.html`. Texts are escaped.

    Args:
        template: that extends `frame.html`.
        style, script: of the page, as they stand in it; the script finds `frame` of `frame.js`.
        data: that the script draws, plain.
        values: of the template; the frame wants `name`, `facts` and `source`.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    import lightkv

    here = files("lightkv.lab")
    frame, shared = (
        (here / f"frame.{kind}").read_text(encoding="utf-8") for kind in ("html", "js")
    )
    # Everything that is not marked is escaped.
    environment = Environment(
        loader=DictLoader({"frame.html": frame}),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(
        version=lightkv.__version__,
        policy=policy("data: blob:"),
        style=Markup(style),
        shared=Markup(shared),
        script=Markup(script),
        plotly=Markup(get_plotlyjs()),
        data=Markup(embedded(data)),
        **values,
    )


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
