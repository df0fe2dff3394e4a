"""A user's picture as a model should see it: upright, in RGB, with its own brightness."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lightkv.core.errors import ConfigError

REMEDY = "save it as a PNG of 8 or 16 bits, scaled as it should be seen"
"""For pictures that `unusable` refuses."""


def unusable(picture: Image.Image) -> str | None:
    """Why a picture cannot be turned into RGB as it looks, by its header alone; None if it can."""
    if picture.mode in ("I", "F"):
        # Pillow would clip: nearly all of such a picture would be white.
        kind = "whole" if picture.mode == "I" else "decimal"
        return f"its pixels are 32-bit {kind} numbers, and nobody says which of them is white"
    return None


def rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB, turned as its EXIF data say; 16-bit grey is scaled to 8 bits.

    Raises:
        ConfigError: pixels of 32 bits, see `unusable`.
    """
    what = unusable(picture)
    if what is not None:
        raise ConfigError(what, field="image", value=f"mode {picture.mode}", remedy=REMEDY)
    picture = _upright(picture)
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255.
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return picture.convert("RGB")


def open_image(path: Path, field: str = "--image") -> Image.Image:
    """A picture in RGB, upright; `field` is the option that named it.

    Raises:
        ConfigError: no such file, not a picture, pixels that have no white, or so many of them that it
            may be an attack.
    """
    try:
        with Image.open(path) as picture:
            what = unusable(picture)
            if what is not None:
                raise ConfigError(what, field=field, value=str(path), remedy=REMEDY)
            return rgb(picture)
    except Image.DecompressionBombError as error:
        raise ConfigError(
            f"the picture has more pixels than are opened ({2 * (Image.MAX_IMAGE_PIXELS or 0):,})",
            field=field,
            value=str(path),
            remedy="make it smaller; models see a few million pixels at most",
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        what, remedy = "not a picture that Pillow can read", "give a PNG or JPEG file"
        if isinstance(error, FileNotFoundError):
            what = "there is no such file"
        elif path.is_dir():
            what, remedy = "it is a folder", f"give a file of it, and {field} again for another one"
        raise ConfigError(what, field=field, value=str(path), remedy=remedy) from error


def _upright(picture: Image.Image) -> Any:
    """Cameras save the sensor's pixels and a note how they were held."""
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return picture  # broken EXIF data; if the picture itself is, reading it will say so
