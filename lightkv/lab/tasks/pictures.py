"""Pictures of digits in their own resolution, for the second bundled model."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from lightkv.demo.native import MAX_PATCHES, MAX_SIDE, MIN_SIDE, numbered_picture
from lightkv.demo.scenes import KINDS, PATCH_SIZE
from lightkv.lab.tasks.digits import Asked, Digits, by_kind


class Pictures(Digits):
    """Pictures of many sizes and shapes, 64 to 400 vision tokens, with the questions of `scenes`.

    Attributes:
        pictures: how many.
        rows, columns: of vision tokens, both or none: pictures of one size, so that a grid can compare
            sizes.
    """

    name: ClassVar[str] = "pictures"
    all_kinds: ClassVar[tuple[str, ...]] = KINDS
    batch_size: int = Field(default=16, ge=1)
    pictures: int = Field(default=500, ge=1)
    rows: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    columns: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)

    @model_validator(mode="after")
    def _one_size(self) -> Pictures:
        if (self.rows is None) != (self.columns is None):
            raise ValueError("a size has rows and columns; give both or none")
        if self.rows and self.columns and self.rows * self.columns > MAX_PATCHES:
            raise ValueError(f"a picture has at most {MAX_PATCHES} vision tokens")
        return self

    @property
    def number(self) -> int:
        return self.pictures

    def numbered(self, index: int) -> Asked:
        size = (self.rows, self.columns) if self.rows and self.columns else None
        scene, questions = numbered_picture(index, self.seed, self.split, size)
        width, height = scene.image.size
        return Asked(scene.image, width * height // PATCH_SIZE**2, by_kind(questions))
