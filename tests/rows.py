"""Processor-like rows of ids for the tests of adapters."""

import numpy as np
import torch

from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing.truth import check_painted, decoder_inputs, points

BETWEEN = 11
"""A text token between two images."""
IMAGE, VIDEO, START, END = 5, 6, 7, 8
"""Placeholders of grids, and the tokens around those of a picture."""
PIXELS = 3 * 2 * 4 * 4
"""Numbers of one patch of a grid."""


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


def padded(images):
    """Images of different sizes in one tensor, and their sizes."""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    pixels = torch.zeros(len(images), 3, height, width)
    for number, image in enumerate(images):
        pixels[number, :, : image.shape[1], : image.shape[2]] = image
    return pixels, torch.tensor([image.shape[1:] for image in images])


def sized_rows(model, prompts, grids, step, write):
    """Left-padded prompts whose images have their own size: the first `grids[0]` tokens, and so on.

    Args:
        step: pixels of a side of a token.
        write: (rows, columns) → ids of an image.
    """
    rows, images = [], []
    for prompt in prompts:
        own = grids[: prompt.images]
        ids, generator = row_ids(prompt, [write(*grid) for grid in own])
        rows.append(ids)
        images += [torch.randn(3, h * step, w * step, generator=generator) for h, w in own]
    inputs = left_padded(rows)
    if images:
        pixels, inputs["image_sizes"] = padded(images)
        inputs["pixel_values"] = pixels.to(model.dtype)
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


def grid_tokens(grid):
    """Vision tokens of (frames, rows, columns) patches, of which 2 × 2 are merged."""
    return grid[0] * grid[1] * grid[2] // 4


def token_kinds(ids):
    """What processors of grids tell of each token: 1 at images, 2 at videos."""
    return (ids == IMAGE).long() + 2 * (ids == VIDEO).long()


def one_run(token, grid):
    """Ids of a picture in one run."""
    return [START, *[token] * grid_tokens(grid), END]


def stamped_frames(token, grid):
    """Ids of a clip whose frames stand apart, a time stamp before each."""
    frame = one_run(token, (1, *grid[1:]))
    return [id for number in range(grid[0]) for id in (20 + number, *frame)]


def grid_rows(prompts, grids, token=IMAGE, dtype=torch.float32, block=one_run):
    """Left-padded prompts whose pictures, of these grids in turn, are random patches."""
    kind = "image" if token == IMAGE else "video"
    rows, own, pixels = [], [], []
    for prompt in prompts:
        grid_of = [grids[(prompt.seed + n) % len(grids)] for n in range(prompt.images)]
        ids, generator = row_ids(prompt, [block(token, grid) for grid in grid_of])
        rows.append(ids)
        own += grid_of
        pixels += [torch.randn(np.prod(g), PIXELS, generator=generator) for g in grid_of]
    inputs = left_padded(rows)
    inputs["mm_token_type_ids"] = token_kinds(inputs["input_ids"])
    if own:
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        inputs[name] = torch.cat(pixels).to(dtype)
        inputs[f"{kind}_grid_thw"] = torch.tensor(own)
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


def check_sizes(adapter, model, grids, step, write, image):
    """Paint moves the token of its cell in one of several images, which have their own sizes."""
    generator = torch.Generator().manual_seed(1)
    pixels, sizes = padded(
        [torch.randn(3, h * step, w * step, generator=generator) for h, w in grids]
    )
    ids = [50]
    for number, grid in enumerate(grids):
        ids += [*write(*grid), 51 + number]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": pixels, "image_sizes": sizes}
    rows, columns = grids[image]
    for y, x in points(rows, columns):
        painted, top, left = pixels.clone(), int(y * rows) * step, int(x * columns) * step
        painted[image, :, top : top + step, left : left + step] += 3.0
        changed = {**inputs, "pixel_values": painted}
        sample = check_truth(adapter, model, inputs, changed, {image: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, *grid) for grid in grids]


def check_square(adapter, model, inputs, side, pixels="pixel_values"):
    """Paint moves the token of its cell in the only image, a square of `side` tokens."""
    size = inputs[pixels].shape[-1] // side
    for y, x in points(side, side):
        painted = {**inputs, pixels: inputs[pixels].clone()}
        top, left = int(y * side) * size, int(x * side) * size
        painted[pixels][..., top : top + size, left : left + size] += 3.0
        sample = check_truth(adapter, model, inputs, painted, {0: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, side, side)]


def audio_rows(model, prompts, tokens, lengths, *, bins, mask=None, width=None, time=-1):
    """Left-padded prompts whose recordings have the first of `lengths` frames, and so on.

    Args:
        tokens: frames → placeholders (id 5) of a recording.
        bins: numbers of a frame.
        mask: argument that is true at frames that are no padding, if there is one.
        width: frames that recordings are padded to, those of the longest by default.
        time: dimension of the frames, 1 or the last.
    """
    rows, recordings = [], []
    for prompt in prompts:
        own = lengths[: prompt.images]
        ids, generator = row_ids(prompt, [[5] * tokens(length) for length in own])
        rows.append(ids)
        recordings += [torch.randn(length, bins, generator=generator) for length in own]
    inputs = left_padded(rows)
    if recordings:
        width = width or max(len(each) for each in recordings)
        features = torch.zeros(len(recordings), width, bins)
        for number, each in enumerate(recordings):
            features[number, : len(each)] = each
        features = features if time == 1 else features.transpose(1, 2)
        inputs["input_features"] = features.contiguous().to(model.dtype)
        if mask is not None:
            real = torch.tensor([len(each) for each in recordings])
            inputs[mask] = (torch.arange(width) < real[:, None]).long()
    return inputs


def check_time(adapter, model, inputs, step, number, *, time=-1, frame=None):
    """Paint in the frames of a token moves that token, at the ends of a recording and within it.

    Args:
        step: frames that are painted.
        number: of the recording.
        time: dimension of the frames, 1 or the last.
        frame: token → the first frame that is painted for it, by default every `step`th.
    """
    read = read_inputs(adapter.input_module(model), (), dict(inputs))
    count = adapter.layout(model, read).samples[0].views[number].grid[0]
    for at in sorted({0, count // 3, count // 2, count - 1}):
        painted, start = inputs["input_features"].clone(), frame(at) if frame else at * step
        painted[number].narrow(0 if time == 1 else -1, start, step).add_(4.0)
        changed = {**inputs, "input_features": painted}
        sample = check_truth(adapter, model, inputs, changed, {number: (at, 0.0, 0.0)})
    assert all(view.modality == "audio" for view in sample.views)
    return sample
