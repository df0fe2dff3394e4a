"""Which pixels the cells of a view cover.

Two ways, and each view says which one it got:

* `encoder`: the processor made one rectangle of pixels for the view, which is drawn as it is, crop
  and padding included: models with one square per picture, and both views of LLaVA-NeXT.
* `stretched`: the whole picture laid over the grid. Right for families that resize the whole picture to
  the grid, which the tests of each adapter check by painting cells (tests/adapters/test_processors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lightkv.core.errors import ConfigError
from lightkv.lab.pictures.data import IntArray, ShownView

if TYPE_CHECKING:
    import torch

    from lightkv.core.layout import VisionLayout

LARGEST = 768
"""Longest side of the pixels that are kept for drawing."""


def shown_views(
    layout: VisionLayout, images: Sequence[Image.Image], inputs: Any, processor: Any, config: Any
) -> tuple[ShownView, ...]:
    """The views of the only row of a layout, with what they show.

    Args:
        layout: before any stage.
        images: the pictures of the prompt, in order.
        inputs: what the processor made of them.
        processor: for its normalisation.
        config: of the model, for the tiles of any-resolution pictures.

    Raises:
        ConfigError: a video, or a layout of other pictures.
    """
    [sample] = layout.samples
    number_of = {int(position): n for n, position in enumerate(sample.positions)}
    pixels = inputs.get("pixel_values")
    encoder = _EncoderPixels(pixels, inputs.get("image_sizes"), processor, config, len(images))
    of_image: dict[int, int] = {}
    found = []
    for view in sample.views:
        frames, rows, columns = view.grid
        if frames != 1 or view.image >= len(images):
            raise ConfigError(
                f"{len(images)} pictures, but the layout has view {view.image} of {frames} frames",
                field="images",
                remedy="videos cannot be drawn; give pictures",
            )
        place = of_image.get(view.image, 0)
        of_image[view.image] = place + 1
        tokens = np.full(rows * columns, -1, dtype=np.int64)
        shows = view.cells >= 0
        tokens[view.cells[shows]] = [number_of[int(p)] for p in view.positions[shows]]
        views = sum(other.image == view.image for other in sample.views)
        drawn = encoder.view(view.image, place, views, (rows, columns))
        title = f"picture {view.image + 1}" + (f", view {place + 1}" if views > 1 else "")
        found.append(
            ShownView(
                title,
                tokens.reshape(rows, columns),
                shrunk(images[view.image] if drawn is None else drawn),
                "stretched" if drawn is None else "encoder",
            )
        )
    return tuple(found)


def shrunk(image: Image.Image) -> Image.Image:
    """The picture in RGB with no side above `LARGEST`."""
    image = image.convert("RGB")
    if max(image.size) > LARGEST:
        image = image.copy()
        image.thumbnail((LARGEST, LARGEST))
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
