"""Layout truth of MiniCPM-V from the picture on: its image processor cuts, its processor writes tags."""

import re
from types import SimpleNamespace

import pytest
import torch
from minicpm import BREAK, CLOSE, CUT, END_CUT, IMAGE, OPEN
from rows import check_truth
from test_minicpmv4_6 import MiniCPM46
from test_processors import box_of, paint, picture
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
    MiniCPMV4_6ImageProcessorPil,
)
from transformers.models.minicpmv4_6.processing_minicpmv4_6 import MiniCPMV4_6Processor

from lightkv.adapters.families.minicpm import MiniCPMAdapter
from lightkv.testing.truth import points

TAGS = {
    "image_token": ("<unit>", IMAGE),
    "image_start_token": ("<image>", OPEN),
    "image_end_token": ("</image>", CLOSE),
    "slice_start_token": ("<slice>", CUT),
    "slice_end_token": ("</slice>", END_CUT),
}
IDS = {"\n": BREAK, **dict(TAGS.values())}


def process(image):
    """Inputs of one picture, as the processor writes them for a tokenizer that knows the tags."""
    cut = MiniCPMV4_6ImageProcessorPil(patch_size=4, scale_resolution=64, max_slice_nums=9)
    out = cut([image], return_tensors="pt")
    processor = SimpleNamespace(slice_mode=True, **{name: tag for name, (tag, _) in TAGS.items()})
    given = {**out, "target_sizes": out["target_sizes"].numpy()}
    text = MiniCPMV4_6Processor.replace_image_token(processor, given, 0, image_token_divisor=16)
    ids = [IDS[part] for part in re.findall(r"</?\w+>|\n", text)]
    return {
        "input_ids": torch.tensor([[50, *ids, 51, 52]]),
        "pixel_values": out["pixel_values"],
        "target_sizes": out["target_sizes"],
    }, out["grids"][0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("size", [(240, 100), (110, 230)], ids=["wide", "tall"])
def test_layout_truth(size):
    model, clean = MiniCPM46().make_model(), picture(*size)
    inputs, (rows, columns) = process(clean)
    assert (columns > rows) == (size[0] > size[1])
    high, wide = (int(side) // 4 for side in inputs["target_sizes"][1])
    grid = rows * high, columns * wide
    for y, x in points(*grid):
        painted, _ = process(paint(clean, *box_of((y, x), grid)))
        sample = check_truth(MiniCPMAdapter(), model, inputs, painted, {0: (0, y, x), 1: (0, y, x)})
    assert [view.grid[1:] for view in sample.views][1] == grid
    assert [view.image for view in sample.views] == [0, 0]
