"""Fuyu: patches go straight into the decoder, one run of placeholders for each row.

One line break, which is text, follows each row; the break after the last row is followed by other text.
So the ids alone say what the grid is: no size reaches the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, runs


class FuyuAdapter(HFAdapter):
    """`FuyuForCausalLM`."""

    name = "fuyu"
    models = "Fuyu-8B"
    model_types = ("fuyu",)

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.model.vision_embed_tokens]  # type: ignore[union-attr,list-item]

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return [picture for row in here for picture in row_pictures(row)]


def row_pictures(here: Placeholders) -> list[Picture]:
    """Pictures of one row `[N]`: runs of one length with a single token between them."""
    grids: list[tuple[int, int]] = []
    end = -1
    for start, stop in runs(here):
        columns = stop - start
        if grids and start - end == 1 and grids[-1][1] == columns:
            grids[-1] = (grids[-1][0] + 1, columns)
        else:
            grids.append((1, columns))
        end = stop
    return [Picture((PictureView.plain(1, rows, columns),)) for rows, columns in grids]
