"""What the processors of MiniCPM-V 4.6, 4.7 and MiniCPM-OCR give: overviews and their slices."""

from typing import Any, ClassVar

import torch
from hybrids import LINEAR, Hybrid
from rows import check_truth, left_padded, row_ids, token_kinds

from lightkv.adapters.families.minicpm import MiniCPMAdapter
from lightkv.testing import Prompt
from lightkv.testing.truth import points

IMAGE, VIDEO, OPEN, CLOSE, CUT, END_CUT, BREAK = 5, 6, 7, 8, 14, 15, 16
PLAIN, SLICED = ((16, 24), None), ((16, 16), (2, 3, (16, 12)))
"""Patches of the overview; rows and columns of slices, and the patches of each."""
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 4,
}


class MiniCPM(Hybrid):
    """Pictures of a prompt are a whole one and a sliced one in turn.

    Class attributes:
        config, model: classes.
        extra: of the config.
        kind: of the pictures: `image` or `video`.
        pictures: (patches of the overview, its slices), or the frames of a clip.
        side: patches of a row or column that are one token's.
        typed: whether the model wants to know which tokens are pictures.
        grids: of the views of a whole picture and a sliced one.
    """

    config: ClassVar[Any]
    model: ClassVar[Any]
    extra: ClassVar[dict[str, Any]] = {}
    kind, pictures, side, typed = "image", (PLAIN, SLICED), 4, False
    grids: ClassVar[Any] = [(1, 4, 6), (1, 4, 4), (1, 8, 9)]

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        config = self.config(
            text_config={"model_type": "qwen3_5_text", **LINEAR},
            vision_config=VISION,
            insert_layer_id=0,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            attn_implementation=attn_implementation,
            **self.extra,
        )
        torch.manual_seed(0)
        return self.model(config).to(dtype).eval()

    def options(self, model, prompts):
        return {"adapter": MiniCPMAdapter()}

    @property
    def token(self):
        return IMAGE if self.kind == "image" else VIDEO

    def run(self, size):
        return [self.token] * (size[0] * size[1] // self.side**2)

    def block(self, picture):
        """Ids of one picture, or of a frame."""
        overview, cut = picture
        ids = [OPEN, *self.run(overview), CLOSE]
        rows, columns, size = cut or (0, 0, None)
        for row in range(rows):
            ids += [BREAK] * bool(row) + [CUT, *self.run(size), END_CUT] * columns if cut else []
        return ids

    def crops(self, picture):
        """(rows, columns) of patches of each crop of a picture."""
        overview, cut = picture
        return [overview] + ([] if cut is None else [cut[2]] * (cut[0] * cut[1]))

    def of(self, prompt):
        count = len(self.pictures)
        return [self.pictures[(prompt.seed + n) % count] for n in range(prompt.images)]

    def make_inputs(self, model, prompts):
        rows, sizes, pixels = [], [], []
        for prompt in prompts:
            own = self.of(prompt)
            ids, generator = row_ids(prompt, [self.block(picture) for picture in own])
            rows.append(ids)
            for size in (size for picture in own for size in self.crops(picture)):
                sizes.append(size)
                width = 4 * size[0] * size[1]
                pixels.append(torch.randn(1, 3, 4, width, generator=generator))
        inputs = left_padded(rows)
        if sizes:
            suffix = "" if self.kind == "image" else "_videos"
            inputs[f"pixel_values{suffix}"] = torch.cat(pixels, dim=-1).to(model.dtype)
            inputs[f"target_sizes{suffix}"] = torch.tensor(sizes, dtype=torch.int32)
        return self.told(inputs)

    def told(self, inputs):
        kinds = {"mm_token_type_ids": token_kinds(inputs["input_ids"])} if self.typed else {}
        return {**inputs, **kinds}

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == self.token

    def extended(self, model, inputs, tokens):
        return self.told(super().extended(model, inputs, tokens))

    def joined(self, first, later):
        out = super().joined(first, later)
        name = "pixel_values" if self.kind == "image" else "pixel_values_videos"
        if name in first and name in later:
            out[name] = torch.cat([first[name], later[name]], dim=-1)
        return out

    def test_layout_truth(self):
        """In each of two pictures the token of a cell moves if the cell's pixels are painted."""
        model, prompt, first, view = self.make_model(), Prompt(2, 2, 3), 0, 0
        inputs = self.make_inputs(model, [prompt])
        for picture in self.of(prompt):
            overview, cut = picture
            high, wide = overview
            found = [self.paint(model, inputs, first, (high, wide), (1, 1), view)]
            first, view = first + high * wide, view + 1
            if cut is not None:
                rows, columns, (high, wide) = cut
                found.append(self.paint(model, inputs, first, (high, wide), (rows, columns), view))
                first, view = first + rows * columns * high * wide, view + 1
        assert [view.grid for view in found[-1].views] == self.grids
        assert [view.image for view in found[-1].views] == [0, 1, 1]

    def paint(self, model, inputs, first, size, cut, view):
        """Paint the patches of some cells of a view of `cut` crops of `size` patches each."""
        (high, wide), (rows, columns), side = size, cut, self.side
        for y, x in points(rows * high // side, columns * wide // side):
            top, left = int(y * rows * high) // side * side, int(x * columns * wide) // side * side
            crop = top // high * columns + left // wide
            pixels = inputs["pixel_values"].clone()
            for row in range(side):
                start = first + crop * high * wide + (top % high + row) * wide + left % wide
                pixels[..., 4 * start : 4 * (start + side)] += 3
            painted = {**inputs, "pixel_values": pixels}
            sample = check_truth(MiniCPMAdapter(), model, inputs, painted, {view: (0, y, x)})
        return sample
