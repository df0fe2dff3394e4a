"""A user's clip as frames of one size: a folder of pictures, an animated picture, arrays or pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from lightkv.checkpoints.pictures import SUFFIXES, open_image, rgb
from lightkv.core.errors import ConfigError

Frames = npt.NDArray[np.uint8]

REMEDY = (
    "give a folder of frames in the order of their names, or an animated GIF, PNG or WebP; "
    "of a film: ffmpeg -i film.mp4 -vf fps=2 frames/%04d.png"
)


def open_clip(given: Any) -> Frames:
    """`[F, H, W, 3]` the frames of a clip, in order, in RGB.

    Args:
        given: the path of a folder of pictures (sorted by name) or of an animated picture;
            `[F, H, W, 3]` of uint8; or frames, each a picture or `[H, W, 3]`.

    Raises:
        ConfigError: nothing that frames can be taken from, none at all, or of different sizes.
    """
    if isinstance(given, str | Path):
        frames = _of_path(Path(given))
    elif isinstance(given, Iterable) and not isinstance(given, Mapping | Image.Image):
        frames = [_frame(frame) for frame in given]
    else:
        raise _not_a_clip(type(given).__name__)
    if not frames:
        raise ConfigError(
            "a clip without frames",
            field="video",
            value=str(given) if isinstance(given, str | Path) else None,
            remedy=REMEDY,
        )
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        named = ", ".join(f"{columns} × {rows}" for rows, columns in sorted(sizes)[:3])
        raise ConfigError(
            "the frames of a clip have one size",
            field="video",
            value=named,
            remedy="scale or crop them first",
        )
    return np.stack(frames)


def _of_path(path: Path) -> list[Frames]:
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
        return [np.asarray(open_image(each, "--video")) for each in found]
    try:
        with Image.open(path) as film:
            return [np.asarray(rgb(frame)) for frame in ImageSequence.Iterator(film)]
    except Image.DecompressionBombError as error:
        raise ConfigError(
            "the clip has more pixels in a frame than are opened",
            field="--video",
            value=str(path),
            remedy="make it smaller; models see a few million pixels at most",
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "there is no such file" if missing else "not a clip that Pillow can read"
        raise ConfigError(what, field="--video", value=str(path), remedy=REMEDY) from error


def _frame(given: Any) -> Frames:
    if isinstance(given, Image.Image) and given.width * given.height:
        return np.asarray(rgb(given))
    array = isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.size > 0
    if array and given.ndim == 3 and given.shape[-1] == 3:
        return np.asarray(given)
    shape = getattr(given, "shape", None)
    raise _not_a_clip(type(given).__name__ if shape is None else f"{given.dtype} {tuple(shape)}")


def _not_a_clip(what: str) -> ConfigError:
    return ConfigError(
        "not a clip, or one whose frames are no pictures",
        field="video",
        value=what,
        remedy="give a path, pictures of PIL.Image, or frames [F, H, W, 3] of uint8",
    )
