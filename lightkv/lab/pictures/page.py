"""The HTML page: one file without network; hovering follows a patch through all stages and runs."""

from __future__ import annotations

import base64
import html
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from lightkv.lab.pictures.data import Picture
from lightkv.lab.pictures.paint import FADED, RAMP, colors, heat_scale
from lightkv.lab.pictures.views import separators
from lightkv.lab.webpage import embedded, policy, write_text

SMALL = 256
"""Pictures up to this size are embedded without loss, larger ones as JPEG."""


def write_html(picture: Picture, path: str | Path) -> str:
    """Write the picture's runs as a page, and return its text.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = page(picture)
    write_text(path, text, "out")
    return text


def page(picture: Picture) -> str:
    """The page as text."""
    here = files("lightkv.lab.pictures")
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = html.escape(f"{picture.model}: {' / '.join(run.prompt for run in picture.runs[:1])}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy()}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<script type="application/json" id="data">{embedded(page_data(picture))}</script>
<script>
{script}</script>
</body>
</html>
"""


def page_data(picture: Picture) -> dict[str, Any]:
    """What the page's script reads: `Picture.to_dict()` with images, colours and scales."""
    data = picture.to_dict()
    for view, shown in zip(data["views"], picture.views, strict=True):
        view["image"] = data_uri(shown.pixels)
    for run, shown_run in zip(data["runs"], picture.runs, strict=True):
        for stage, shown_stage in zip(run["stages"], shown_run.stages, strict=True):
            guidance = shown_stage.guidance
            stage["scale"] = None if guidance is None else heat_scale(guidance)
    data["separators"] = separators(picture.views, picture.count).tolist()
    data["colors"] = ["#{:02x}{:02x}{:02x}".format(*color) for color in colors(picture)]
    data["ramp"] = [list(color) for color in RAMP]
    data["faded"] = list(FADED)
    return data


def data_uri(image: Image.Image) -> str:
    """The picture in the text of the page."""
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    image.save(buffer, format=kind.upper(), **({} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
