"""A user's picture as a model should see it: upright, in RGB, with its own brightness."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lightkv.core.errors import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of the files of a folder that are pictures."""
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
        ConfigError: as `opened`.
    """
    with opened(path, field) as picture:
        return rgb(picture)


@contextmanager
def opened(path: Path, field: str, megapixels: float | None = None) -> Iterator[Image.Image]:
    """A picture of which the header is read; errors of whoever reads the pixels are told as well.

    Args:
        path: of the file.
        field: what the user gave the path as.
        megapixels: a limit that the user may raise; Pillow's own if None.

    Raises:
        ConfigError: no such file, not a picture, pixels that have no white, or so many of them that it
            may be an attack.
    """
    try:
        with warnings.catch_warnings():
            if megapixels is not None:  # which is checked below
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
                if megapixels is not None and width * height > megapixels * 1e6:
                    raise Image.DecompressionBombError(f"{width} x {height} pixels")
                what = unusable(picture)
                if what is not None:
                    raise ConfigError(what, field=field, value=str(path), remedy=REMEDY)
                yield picture
    except Image.DecompressionBombError as error:
        what = (
            f"the picture has more pixels than are opened ({2 * (Image.MAX_IMAGE_PIXELS or 0):,})"
        )
        remedy = "make it smaller; models see a few million pixels at most"
        if megapixels is not None:
            what = f"the picture is larger than {megapixels:g} megapixels ({error})"
            remedy = "make it smaller, or raise megapixels: if memory allows"
        raise ConfigError(what, field=field, value=str(path), remedy=remedy) from error
    except (OSError, ValueError, SyntaxError) as error:
        what, remedy = f"not a picture that Pillow can read ({error})", "give a PNG or JPEG file"
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
