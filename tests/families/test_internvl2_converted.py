"""The contract of the `internvl` adapter on a converted InternVL2: a Llama that was an InternLM2."""

import copy
import functools
import tempfile
from pathlib import Path

import torch
from standins.chat_checkpoint import CONTEXT, write_checkpoint
from tiles import tile_rows
from transformers import InternVLForConditionalGeneration

from lightkv.adapters.families.internvl import InternVLAdapter
from lightkv.checkpoints.convert import convert_internvl2
from lightkv.testing import AdapterSuite

SIDE = 3


@functools.cache
def converted():
    """A folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="lightkv-converted-")
    write_checkpoint(Path(folder.name, "source"))
    convert_internvl2(Path(folder.name, "source"), Path(folder.name, "out"))
    return folder


def write(rows, columns):
    """Ids of a picture of so many tiles."""
    tiles = rows * columns
    return [CONTEXT] * ((tiles + (tiles > 1)) * SIDE * SIDE)


class TestConverted(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        model = InternVLForConditionalGeneration.from_pretrained(
            Path(converted().name, "out"), attn_implementation=attn_implementation, dtype=dtype
        )
        # Weights that lie in the file are aligned otherwise than a copy's: the last bits differ.
        return copy.deepcopy(model).eval()

    def make_inputs(self, model, prompts):
        return tile_rows(model, prompts, write)

    def options(self, model, prompts):
        return {"adapter": InternVLAdapter()}
