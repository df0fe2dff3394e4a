"""Processor-like rows of ids for the tests of adapters."""

import torch

from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing.truth import check_painted, decoder_inputs

BETWEEN = 11
"""A text token between two images."""


def row_ids(prompt, blocks, *, apart=True):
    """Ids of a prompt whose images are written as `blocks` (lists of ids), and its generator.

    With `apart` a text token stands between two images.
    """
    generator = torch.Generator().manual_seed(prompt.seed)
    text = torch.randint(20, 200, (prompt.before + prompt.after,), generator=generator).tolist()
    ids = text[: prompt.before]
    for number, block in enumerate(blocks):
        ids += ([BETWEEN] if number and apart else []) + list(block)
    return torch.tensor(ids + text[prompt.before :]), generator


def left_padded(rows):
    """`input_ids` and `attention_mask` `[B, N]` of rows of different lengths."""
    width = max(row.shape[0] for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        ids[number, width - row.shape[0] :] = row
        mask[number, width - row.shape[0] :] = 1
    return {"input_ids": ids, "attention_mask": mask.long()}


def picture_rows(model, prompts, block, side):
    """Left-padded prompts whose images are `block` ids each, with random pixels of `side` squares."""
    rows, pixels = [], []
    for prompt in prompts:
        ids, generator = row_ids(prompt, [block] * prompt.images, apart=False)
        rows.append(ids)
        pixels.append(torch.randn(prompt.images, 3, side, side, generator=generator))
    inputs = left_padded(rows)
    if sum(prompt.images for prompt in prompts):
        inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
    return inputs


def video_rows(model, prompts, block, frames, side):
    """Left-padded prompts whose videos are `block` ids each, with random frames of `side` pixels."""
    rows, pixels = [], []
    for prompt in prompts:
        ids, generator = row_ids(prompt, [block] * prompt.images)
        rows.append(ids)
        pixels.append(torch.randn(prompt.images, frames, 3, side, side, generator=generator))
    inputs = left_padded(rows)
    if sum(prompt.images for prompt in prompts):
        inputs["pixel_values_videos"] = torch.cat(pixels).to(model.dtype)
    return inputs


def grids_later(model, whole, later):
    """A turn for models with grids: positions need all grids, the encoder only the new pixels.

    `generate` would encode as many pictures as there are grids, so the features are made before.
    """
    call = {name: whole[name] for name in later if not name.startswith("pixel_values")}
    features = {}
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if pixels in later:
            make = getattr(model, f"get_{kind}_features")
            sizes = {name: later[name] for name in later if name.startswith(f"{kind}_")}
            features[kind] = make(later[pixels], **sizes)
    return {**call, "mm_encoder_outputs": features} if features else call


def check_truth(adapter, model, inputs, painted, views):
    """`check_painted` for `painted` inputs that differ from `inputs` in the pixels of `views`."""
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), dict(inputs)))
    before, after = (
        decoder_inputs(model, adapter.decoder(model), given)[0] for given in (inputs, painted)
    )
    check_painted(before, after, layout.samples[0], views)
    return layout.samples[0]
