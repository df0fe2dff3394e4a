"""Pictures of a run: where each patch of pictures and clips ended, and what guided it."""

from __future__ import annotations

from lightkv.lab.pictures.collect import collect
from lightkv.lab.pictures.data import Picture, ShownRun, ShownStage, ShownView
from lightkv.lab.pictures.page import write_html
from lightkv.lab.pictures.sheet import draw_png

__all__ = [
    "Picture",
    "ShownRun",
    "ShownStage",
    "ShownView",
    "collect",
    "draw_png",
    "write_html",
]
