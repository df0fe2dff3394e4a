"""Which pixels the cells of a view cover.

Two ways, and each view says which one it got:

* `encoder`: the processor made one rectangle of pixels for the view, which is drawn as it is, crop
  and padding included: models with one square per picture, and both views of LLaVA-NeXT.
* `stretched`: the whole picture, or frame of a clip, laid over the grid. Right for families that resize
  the whole picture to the grid, which the tests of each adapter check by painting cells
  (tests/adapters/test_processors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lightkv.checkpoints.clips import Frames
from lightkv.core.errors import ConfigError
from lightkv.lab.pictures.data import IntArray, ShownView, Source

if TYPE_CHECKING:
    import torch

    from lightkv.core.layout import VisionLayout

LARGEST, LARGEST_FRAME = 768, 320
"""Longest side of the pixels that are kept for drawing, of a picture and of a frame of a clip."""


def shown_views(
    layout: VisionLayout,
    images: Sequence[Image.Image],
    inputs: Any,
    processor: Any,
    config: Any,
    clips: Sequence[Frames] = (),
) -> tuple[ShownView, ...]:
    """The views of the only row of a layout, with what they show.

    Args:
        layout: before any stage.
        images: the pictures of the prompt, in order.
        inputs: what the processor made of them.
        processor: for its normalisation.
        config: of the model, for the tiles of any-resolution pictures.
        clips: the clips of the prompt, in order.

    Raises:
        ConfigError: a layout of other pictures or clips.
    """
    [sample] = layout.samples
    number_of = {int(position): n for n, position in enumerate(sample.positions)}
    moving = list(dict.fromkeys(v.image for v in sample.views if v.modality == "video"))
    still = list(dict.fromkeys(v.image for v in sample.views if v.modality != "video"))
    if len(moving) != len(clips):
        raise _other_pictures(f"{len(clips)} clips", f"{len(moving)} of them")
    pixels = inputs.get("pixel_values")
    encoder = _EncoderPixels(pixels, inputs.get("image_sizes"), processor, config, len(images))
    of_image: dict[int, int] = {}
    found = []
    for view in sample.views:
        frames, rows, columns = view.grid
        place = of_image.get(view.image, 0)
        tokens = np.full(frames * rows * columns, -1, dtype=np.int64)
        shows = view.cells >= 0
        tokens[view.cells[shows]] = [number_of[int(p)] for p in view.positions[shows]]
        tokens = tokens.reshape(view.grid)
        views = [other for other in sample.views if other.image == view.image]
        if view.modality == "video":
            clip, total = moving.index(view.image), sum(other.grid[0] for other in views)
            found += _frames(tokens, clips[clip], clip, place, total)
            of_image[view.image] = place + frames
            continue
        number = still.index(view.image)
        if frames != 1 or number >= len(images):
            raise _other_pictures(f"{len(images)} pictures", f"view {number} of {frames} frames")
        of_image[view.image] = place + 1
        drawn = encoder.view(number, place, len(views), (rows, columns))
        title = f"picture {number + 1}" + (f", view {place + 1}" if len(views) > 1 else "")
        pixels = shrunk(images[number] if drawn is None else drawn)
        source: Source = "stretched" if drawn is None else "encoder"
        found.append(ShownView(title, tokens[0], pixels, source))
    return tuple(found)


def _frames(
    tokens: IntArray, pixels: Frames, clip: int, before: int, total: int
) -> list[ShownView]:
    """The frames of a view `[frames, rows, columns]` of a clip, `before` of whose `total` came before.

    Of the frames that a token spans the first is shown. A clip whose frames do not come out even,
    because the processor took some of them only, is cut into `total` parts.
    """
    found, count = [], len(pixels)
    step = -(-count // total)
    even = step * (total - 1) < count
    for number, grid in enumerate(tokens, before):
        first = min(number * step if even else number * count // total, count - 1)
        shown = Image.fromarray(pixels[first])
        title = f"clip {clip + 1}, frame {first + 1}"
        found.append(ShownView(title, grid, shrunk(shown, LARGEST_FRAME), "stretched", clip))
    return found


def _other_pictures(given: str, has: str) -> ConfigError:
    return ConfigError(
        f"the prompt was given {given}, but the layout has {has}",
        field="images",
        remedy="give what the prompt shows: pictures as images, clips as videos; sound and clips that "
        "a model takes as pictures cannot be drawn",
    )


def shrunk(image: Image.Image, largest: int = LARGEST) -> Image.Image:
    """The picture in RGB with no side above `largest` pixels."""
    image = image.convert("RGB")
    if max(image.size) > largest:
        image = image.copy()
        image.thumbnail((largest, largest))
    return image


class _EncoderPixels:
    """The pixels that the processor made, and which of them a view shows."""

    def __init__(self, pixels: Any, sizes: Any, processor: Any, config: Any, pictures: int) -> None:
        self.pixels = pixels
        self.sizes = sizes
        self.maker = getattr(processor, "image_processor", None)
        self.config = config
        self.pictures = pictures

    def view(self, image: int, place: int, views: int, grid: tuple[int, int]) -> Image.Image | None:
        """The rectangle of a view, or None where it cannot be told from the pixels alone."""
        if getattr(self.pixels, "ndim", 0) == 4 and self._squares() and views == 1:
            return self._image(self.pixels[image])
        if getattr(self.pixels, "ndim", 0) == 5 and self._any_resolution() and views == 2:
            if place == 0:
                return self._image(self.pixels[image, 0])
            return self._stitched(image, grid)
        return None

    def _squares(self) -> bool:
        """One rectangle of colours for each picture, none of them padded to another's size."""
        count, channels = self.pixels.shape[:2]
        return count == self.pictures and channels == 3 and (count == 1 or self.sizes is None)

    def _any_resolution(self) -> bool:
        # Only this family: others put the whole picture last, or pool the grid.
        return getattr(self.config, "model_type", None) == "llava_next" and self.sizes is not None

    def _stitched(self, image: int, grid: tuple[int, int]) -> Image.Image | None:
        """The tiles side by side, without the rows and columns of patches that are cut off."""
        from lightkv.adapters.families.llava_next import tile_grid
        from lightkv.adapters.hf.inputs import host_rows
        from lightkv.adapters.pictures.tiles import stitch

        side = self.pixels.shape[-1]
        canvas = tile_grid(host_rows(self.sizes)[image], self.config.image_grid_pinpoints, side)
        tiles = self.pixels[image, 1 : 1 + canvas[0] * canvas[1]]
        if tiles.shape[0] != canvas[0] * canvas[1]:
            return None
        patch = self.config.vision_config.patch_size
        whole = stitch(tiles, *canvas)
        cut = [
            (length // patch - used) // 2 * patch
            for length, used in zip(whole.shape[1:], grid, strict=True)
        ]
        rows, columns = (used * patch for used in grid)
        return self._image(whole[:, cut[0] : cut[0] + rows, cut[1] : cut[1] + columns])

    def _image(self, pixels: torch.Tensor) -> Image.Image | None:
        """Colours of normalised pixels `[3, H, W]`."""
        mean, std = getattr(self.maker, "image_mean", None), getattr(self.maker, "image_std", None)
        if self.maker is None or not getattr(self.maker, "do_rescale", True):
            return None
        values = pixels.detach().float().cpu().numpy().transpose(1, 2, 0)
        if getattr(self.maker, "do_normalize", False):
            if mean is None or std is None:
                return None
            values = values * np.asarray(std) + np.asarray(mean)
        return Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


def separators(views: Sequence[ShownView], count: int) -> IntArray:
    """Numbers of the vision tokens that no cell of a view shows."""
    shown = np.concatenate([view.tokens.ravel() for view in views]) if views else np.zeros(0)
    return np.setdiff1d(np.arange(count), shown[shown >= 0])
