"""What a question is about: pictures and clips that stand before it in a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Seen:
    """Pictures, then clips, in the order of the prompt.

    Attributes:
        pictures: PIL images in RGB.
        clips: frames `[F, H, W, 3]` of uint8 each.
    """

    pictures: Sequence[Any] = ()
    clips: Sequence[Any] = ()

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of each picture its width and height, of each clip its frames, height and width."""
        return (
            *(tuple(picture.size) for picture in self.pictures),
            *(np.shape(clip)[:3] for clip in self.clips),
        )

    def digest(self) -> str:
        """Of sizes and pixels: equal for what looks the same."""
        digest = hashlib.sha256(repr(self.sizes).encode())
        for picture in self.pictures:
            digest.update(picture.tobytes())
        for clip in self.clips:
            digest.update(np.ascontiguousarray(clip).tobytes())
        return digest.hexdigest()
