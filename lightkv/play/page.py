"""The playground's page: one file that loads nothing from elsewhere and asks its own server only."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from lightkv.lab.webpage import embedded, policy
from lightkv.play.asked import LONGEST_QUESTION, MOST_NEW_TOKENS
from lightkv.play.offers import SCENES, UNCOMPRESSED
from lightkv.play.uploads import BYTES

FIRST = ("lightkv-lean", "fastv")
"""What is chosen when the page opens: one that merges by the question, one that drops."""

POLICY = f"{policy()}; connect-src 'self'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer: the page may load nothing and may not be framed."""


def page(models: Sequence[str], strategies: Sequence[dict[str, Any]]) -> str:
    """The page as text.

    Args:
        models: names, the first of which is chosen.
        strategies: as of `Offers.strategies`, of that model.
    """
    here = files("lightkv.play")
    text, style, script = (
        (here / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    data = {
        "models": list(models),
        "strategies": list(strategies),
        "first": list(FIRST),
        "uncompressed": UNCOMPRESSED,
        "bytes": BYTES,
        "scenes": SCENES,
    }
    bounds = {"LONGEST": LONGEST_QUESTION, "MOST_TOKENS": MOST_NEW_TOKENS, "POLICY": POLICY}
    # Data last: no text in it is taken for one of the marks.
    parts = {**bounds, "STYLE": style, "SCRIPT": script, "DATA": embedded(data)}
    for mark, part in parts.items():
        text = text.replace(f"{{{{{mark}}}}}", str(part))
    return text
