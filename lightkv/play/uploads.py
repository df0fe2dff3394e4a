"""From the bytes of a request to a picture: its header is asked how large it is before it is decoded."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from lightkv.checkpoints.pictures import rgb
from lightkv.core.errors import ConfigError

BYTES = 20 << 20
"""Of a picture's file."""
PIXELS = 50_000_000
"""Of a picture, which take four times as many bytes while it is turned into RGB."""
SIDE = 8
"""Pixels, at least: of less there is nothing to merge, and some processors take rows for channels."""
ASPECT = 100
"""How many times as long as wide a picture may be: processors of grids refuse more than 200."""
FORMATS = ("PNG", "JPEG", "WEBP")
BODY = 4 * BYTES // 3 + (1 << 16)
"""Bytes of a whole request, the picture in base64."""


def decoded(text: str) -> bytes:
    """The bytes of a file that was sent in base64.

    Raises:
        ConfigError: it is not base64, or too large.
    """
    if len(text) > 4 * BYTES // 3 + 4:
        raise too_large()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError("the picture is not sent in base64", field="picture") from error


def too_large() -> ConfigError:
    """A file, or a request, of too many bytes."""
    return ConfigError(
        f"the picture's file is larger than {BYTES >> 20} MiB",
        field="picture",
        remedy="make it smaller; models see a few million pixels at most",
    )


def picture_from(data: bytes) -> Image.Image:
    """The picture in RGB, upright.

    Raises:
        ConfigError: not a PNG, JPEG or WebP file, a damaged one, too many pixels, or a shape that no
            model can see anything in.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:  # its header only
            _check_size(*picture.size)
            return rgb(picture)
    except Image.DecompressionBombError as error:  # Pillow's own bound, at 179 million pixels
        raise _too_many(None) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            "this is not a picture that can be read",
            field="picture",
            remedy="choose a PNG, JPEG or WebP file",
        ) from error


def _check_size(width: int, height: int) -> None:
    if min(width, height) < SIDE:
        raise ConfigError(
            f"the picture has fewer than {SIDE} pixels along a side, and nothing in it can be merged",
            field="picture",
            value=f"{width} × {height}",
            remedy="choose a larger one",
        )
    if width * height > PIXELS:
        raise _too_many(f"{width:,} × {height:,}")
    if max(width, height) > ASPECT * min(width, height):
        raise ConfigError(
            f"the picture is more than {ASPECT} times as long as wide",
            field="picture",
            value=f"{width:,} × {height:,}",
            remedy="cut out the part that the question is about",
        )


def _too_many(size: str | None) -> ConfigError:
    return ConfigError(
        f"the picture has more pixels than are opened ({PIXELS:,})",
        field="picture",
        value=size,
        remedy="make it smaller; models see a few million pixels at most",
    )
