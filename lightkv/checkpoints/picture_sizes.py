"""From a picture's size in pixels to the views that a model makes of it, without the picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightkv.core.cost.counting import ViewSize
from lightkv.core.errors import ConfigError, ModelError

Size = tuple[int, int]
"""(height, width) in pixels."""

MOST_SIDE = 1_000_000
THINNEST = 200
"""Side over side from which processors of dynamic grids refuse a picture."""
PIXELS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), (56 * 56, 16384 * 28 * 28)),
    **dict.fromkeys(
        ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), (64 * 32 * 32, 16384 * 32 * 32)
    ),
}
"""Fewest and most pixels that a picture is scaled to, as the published processors of a type say."""
TILES = 12
"""Most tiles of an InternVL picture, as its published processors say."""


def image_views(config: Any, size: Size, source: Path | None = None) -> tuple[ViewSize, ...]:
    """The views of one picture.

    Args:
        config: of the model.
        size: of the picture.
        source: folder whose `preprocessor_config.json` says how pictures are scaled; what was published
            for the type if None, or if it does not say.

    Raises:
        ConfigError: a picture without pixels, or one that the model's processor refuses.
        ModelError: a model of whose processor nothing is known here.
    """
    if not all(1 <= side <= MOST_SIDE for side in size):
        raise ConfigError(
            f"the sides of a picture are 1 to {MOST_SIDE:,} pixels",
            field="--image",
            value=f"{size[1]}x{size[0]}",
        )
    kind = getattr(config, "model_type", "")
    if kind in _KINDS:
        return _KINDS[kind](config, size, _settings(source))
    if kind in PIXELS:
        return _dynamic(config, size, _settings(source))
    raise ModelError(
        f"how models of type {kind!r} cut or scale a picture is not known here",
        field="--image",
        value=f"{size[1]}x{size[0]}",
        remedy="give the views: --grid ROWSxCOLUMNS, in tokens",
    )


def _settings(source: Path | None) -> dict[str, Any]:
    """What a checkpoint says of its image processor; nothing where it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = None if source is None else source / name
        if path is None or not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{name} cannot be read ({error})", field="MODEL", value=str(path)
            ) from error
        inside = found.get("image_processor", found) if isinstance(found, dict) else {}
        return inside if isinstance(inside, dict) else {}
    return {}


def _square(config: Any, size: Size, settings: dict[str, Any]) -> tuple[ViewSize, ...]:
    """One square view, whatever the size."""
    from lightkv.adapters.families.llava import square_picture

    (view,) = square_picture(config).views
    rows, columns = view.grid[1:]
    return (ViewSize((1, rows, columns), leading=view.cells.size - rows * columns),)


def _any_resolution(config: Any, size: Size, settings: dict[str, Any]) -> tuple[ViewSize, ...]:
    """LLaVA-NeXT: the base view, and the tiles' grid without padding, a newline after each row."""
    from lightkv.adapters.families.llava_next import any_resolution

    return tuple(
        ViewSize(view.grid, newline=view.cells.size > math.prod(view.grid))
        for view in any_resolution(config, size).views
    )


def _dynamic(config: Any, size: Size, settings: dict[str, Any]) -> tuple[ViewSize, ...]:
    """Qwen: the picture scaled to whole squares of merged patches, within bounds of pixels."""
    vision = config.vision_config
    least, most = PIXELS[config.model_type]
    given = settings.get("size") or {}
    least = settings.get("min_pixels") or given.get("shortest_edge") or least
    most = settings.get("max_pixels") or given.get("longest_edge") or most
    side = vision.patch_size * vision.spatial_merge_size
    rows, columns = merged_rows(size, side, least, most)
    return (ViewSize((1, rows, columns)),)


def merged_rows(size: Size, side: int, least: int, most: int) -> tuple[int, int]:
    """Rows and columns of squares of `side` pixels of a picture that is scaled to whole ones.

    Args:
        size: of the picture.
        side: of a square: the patch times the patches that are merged.
        least, most: pixels of the scaled picture.

    Raises:
        ConfigError: a picture as thin as a line.
    """
    if max(size) > THINNEST * min(size):
        raise ConfigError(
            f"a picture whose sides differ more than {THINNEST} times is refused by the processor",
            field="--image",
            value=f"{size[1]}x{size[0]}",
        )
    pixels = size[0] * size[1]
    rows, columns = (round(each / side) for each in size)
    if rows * columns * side**2 > most:
        shrink = math.sqrt(pixels / most)
        rows, columns = (max(1, math.floor(each / shrink / side)) for each in size)
    elif rows * columns * side**2 < least:
        grow = math.sqrt(least / pixels)
        rows, columns = (math.ceil(each * grow / side) for each in size)
    return rows, columns


def _tiles(config: Any, size: Size, settings: dict[str, Any]) -> tuple[ViewSize, ...]:
    """InternVL: tiles, stitched, and the thumbnail where there are several."""
    tile = config.vision_config.image_size
    side = tile if isinstance(tile, int) else tile[0]
    most = settings.get("max_patches") or TILES
    rows, columns = tile_arrangement(size, side, settings.get("min_patches") or 1, most)
    within = math.isqrt(config.image_seq_length)
    stitched = ViewSize((1, rows * within, columns * within))
    thumbnail = ViewSize((1, within, within))
    return (stitched, thumbnail) if rows * columns > 1 else (stitched,)


def tile_arrangement(size: Size, side: int, fewest: int, most: int) -> tuple[int, int]:
    """Tiles down and across: of those allowed the ones shaped most like the picture.

    Of equally good ones the larger is taken while the picture has more than half of its pixels.
    """
    wanted = size[1] / size[0]
    allowed = sorted(
        (columns * rows, columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
        if columns * rows >= fewest
    )
    best, off = (1, 1), math.inf
    for count, columns, rows in allowed:
        distance = abs(wanted - columns / rows)
        fills = size[0] * size[1] > 0.5 * side * side * count
        if distance < off or (distance == off and fills):
            best, off = (rows, columns), distance
    return best


_KINDS: dict[str, Callable[[Any, Size, dict[str, Any]], tuple[ViewSize, ...]]] = {
    "llava": _square,
    "vipllava": _square,
    "llava_next": _any_resolution,
    "internvl": _tiles,
}
