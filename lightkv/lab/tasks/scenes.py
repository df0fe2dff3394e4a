"""The bundled digit scenes: pictures of coloured digits, up to six questions about each."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from lightkv.demo.scenes import GRID, KINDS, numbered_scene
from lightkv.lab.tasks.digits import Asked, Digits, by_kind


class Scenes(Digits):
    """Digit scenes of the first bundled model; asked as `lightkv demo` asks.

    Attributes:
        scenes: how many.
    """

    name: ClassVar[str] = "scenes"
    all_kinds: ClassVar[tuple[str, ...]] = KINDS
    scenes: int = Field(default=500, ge=1)

    @property
    def number(self) -> int:
        return self.scenes

    def numbered(self, index: int) -> Asked:
        scene, questions = numbered_scene(index, self.seed, self.split)
        return Asked(scene.image, GRID * GRID, by_kind(questions))
