"""Processor-like rows of ids for the tests of adapters."""

import torch

from lightkv.adapters.inputs import read_inputs
from lightkv.testing.truth import check_painted, decoder_inputs

BETWEEN = 11
"""A text token between two images."""


def row_ids(prompt, blocks):
    """Ids of a prompt whose images are written as `blocks` (lists of ids), and its generator."""
    generator = torch.Generator().manual_seed(prompt.seed)
    text = torch.randint(20, 200, (prompt.before + prompt.after,), generator=generator).tolist()
    ids = text[: prompt.before]
    for number, block in enumerate(blocks):
        ids += ([BETWEEN] if number else []) + list(block)
    return torch.tensor(ids + text[prompt.before :]), generator


def left_padded(rows):
    """`input_ids` and `attention_mask` `[B, N]` of rows of different lengths."""
    width = max(row.shape[0] for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        ids[number, width - row.shape[0] :] = row
        mask[number, width - row.shape[0] :] = 1
    return {"input_ids": ids, "attention_mask": mask.long()}


def check_truth(adapter, model, inputs, painted, views):
    """`check_painted` for `painted` inputs that differ from `inputs` in the pixels of `views`."""
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), dict(inputs)))
    before, after = (
        decoder_inputs(model, adapter.decoder(model), given)[0] for given in (inputs, painted)
    )
    check_painted(before, after, layout.samples[0], views)
    return layout.samples[0]
