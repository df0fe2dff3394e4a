"""Families whose pictures are dynamic grids: what their processors give, and what all of them show.

A grid is (frames, rows, columns) of patches, of which the model merges squares. A family's file is

    class Mine(Grids):
        adapter, model = MineAdapter, MineForConditionalGeneration

        def config(self, **given):
            return MineConfig(text_config=text(), vision_config=tower(), **IDS, **given)

    class TestMine(Mine, AdapterSuite): ...
    class TestClips(Clips, Mine): ...
"""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from releases import LATER_IMAGE
from rows import check_truth, grids_later, left_padded, row_ids
from tiny import TEXT

from lightkv.adapters.families.glm4v import Glm4vAdapter
from lightkv.adapters.families.qwen3_vl import Qwen3VLAdapter
from lightkv.core.errors import ConfigError
from lightkv.testing import Prompt
from lightkv.testing.adapters import PAIR, AdapterBench
from lightkv.testing.truth import points

IMAGE, VIDEO, START, END = 5, 6, 7, 8
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
WRAPPED = {**IDS, "vision_start_token_id": START, "vision_end_token_id": END}
KINDS = {"image": (IMAGE, "pixel_values"), "video": (VIDEO, "pixel_values_videos")}
"""Placeholder and pixels of each kind of picture."""


NO_LATER_IMAGE = {
    "later image": "transformers gives a picture in a later turn other positions than one prompt does"
}
GLM_TAGS = ("image_start", "image_end", "video_start", "video_end", "video")
GLM_IDS = {f"{tag}_token_id": 12 + number for number, tag in enumerate(GLM_TAGS)}
GLM_IDS["image_token_id"] = IMAGE


def rope(**changes):
    return {"rope_type": "default", "rope_theta": 1e4, **changes}


INTERLEAVED = rope(mrope_section=[4, 2, 2], mrope_interleaved=True)
"""Three axes that take turns in the tables, as in Qwen3-VL."""


def text(**changes):
    """Sizes of a decoder. Larger weights than usual: what attention looks at has to matter."""
    return {**TEXT, "initializer_range": 0.06, **changes}


def experts(**changes):
    """The same with two of four experts for each token."""
    sizes = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    return text(**sizes, **changes)


def tower(**changes):
    """Sizes of a vision tower as in Qwen2.5-VL."""
    sizes = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    sizes |= {"patch_size": 4, "spatial_merge_size": 2, "out_hidden_size": 64}
    return {**sizes, **changes}


def siglip(**changes):
    """Sizes of a vision tower as in SigLIP."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return {**sizes, "num_attention_heads": 2, "patch_size": 4, **changes}


class Grids(AdapterBench):
    """What the processor of such a family gives.

    Class attributes:
        adapter, model: classes.
        kind: of the pictures in a prompt: `image` or `video`.
        grids: that the pictures of a prompt have, one after the other.
        merge: patches of a row or column that are one token's.
        patch: shape of the pixels of a patch.
        raster: whether patches come row by row, not square by square.
        typed: whether the model wants to know which tokens are pictures.
        stamped: whether a time stamp stands before each frame of a clip.
    """

    adapter: ClassVar[Any]
    model: ClassVar[Any]
    kind = "image"
    grids = ((1, 8, 12), (1, 12, 8), (1, 8, 16))
    merge = 2
    patch = (96,)
    raster, typed, stamped = False, True, True
    cannot = LATER_IMAGE
    # transformers repeats the images of a row one by one, [A, A, B, B], and the ids as [A, B, A, B].
    beam_prompts = PAIR

    def config(self, **given):
        raise NotImplementedError

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        torch.manual_seed(0)
        config = self.config(attn_implementation=attn_implementation)
        return self.model(config).to(dtype).eval()

    def options(self, model, prompts):
        return {"adapter": self.adapter()}

    @property
    def token(self):
        """Placeholder of the pictures."""
        return KINDS[self.kind][0]

    def frame(self, rows, columns):
        """Ids of one image, or of a frame, of rows × columns tokens."""
        return [START, *[self.token] * (rows * columns), END]

    def block(self, grid):
        """Ids of one picture."""
        frames, rows, columns = grid[0], grid[1] // self.merge, grid[2] // self.merge
        if self.kind == "image" or not self.stamped:
            return self.frame(frames * rows, columns)
        return [id for number in range(frames) for id in (20 + number, *self.frame(rows, columns))]

    def grids_of(self, prompt):
        return [self.grids[(prompt.seed + n) % len(self.grids)] for n in range(prompt.images)]

    def kinds_of(self, ids):
        """Token types as the processor tells them."""
        return (ids == IMAGE).int() + 2 * (ids == VIDEO).int()

    def make_inputs(self, model, prompts):
        rows, pixels, grids = [], [], []
        for prompt in prompts:
            own = self.grids_of(prompt)
            ids, generator = row_ids(prompt, [self.block(grid) for grid in own])
            rows.append(ids)
            grids += own
            pixels += [torch.randn(np.prod(g), *self.patch, generator=generator) for g in own]
        inputs = left_padded(rows)
        if self.typed:
            inputs["mm_token_type_ids"] = self.kinds_of(inputs["input_ids"])
        if grids:
            inputs[KINDS[self.kind][1]] = torch.cat(pixels).to(model.dtype)
            inputs[f"{self.kind}_grid_thw"] = torch.tensor(grids)
        return inputs

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == self.token

    def extended(self, model, inputs, tokens):
        longer = super().extended(model, inputs, tokens)
        if self.typed:
            types = inputs["mm_token_type_ids"]
            longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(tokens.shape)], dim=1)
        return longer

    def later_call(self, model, whole, later):
        # Without types a model counts positions of its own, and asks for no grids of earlier turns.
        make = grids_later if self.typed else super().later_call
        return make(model, whole, later)

    def patches_at(self, grid, frame, row, column):
        """Numbers of the patches of one token, among those of its picture."""
        _, rows, columns = grid
        every = np.arange(np.prod(grid)).reshape(-1, rows, columns)
        if self.raster:
            square = np.s_[frame, row * self.merge :, column * self.merge :]
            return every[square][: self.merge, : self.merge].reshape(-1)
        squares = every.reshape(-1, rows // self.merge, columns // self.merge, self.merge**2)
        return squares[frame, row, column]

    def test_layout_truth(self):
        """The token of a cell moves if the cell's pixels are painted, in each of two pictures."""
        model, prompt = self.make_model(), Prompt(2, 2, 3, seed=1)
        inputs, key, first = self.make_inputs(model, [prompt]), KINDS[self.kind][1], 0
        for number, grid in enumerate(self.grids_of(prompt)):
            rows, columns = grid[1] // self.merge, grid[2] // self.merge
            for frame in {0, grid[0] - 1}:
                for y, x in points(rows, columns):
                    painted = inputs[key].clone()
                    cell = self.patches_at(grid, frame, int(y * rows), int(x * columns))
                    painted[first + cell] += 3
                    views = {number: (frame, y, x)}
                    sample = check_truth(
                        self.adapter(), model, inputs, {**inputs, key: painted}, views
                    )
            first += np.prod(grid)
        assert [view.image for view in sample.views] == [0, 1]
        assert sum(len(view.positions) for view in sample.views) == int(
            self.vision_mask(model, inputs, [prompt]).sum()
        )

    def test_two_turns_are_one_prompt_to_the_plain_model(self):
        """Where they are not, a picture in a later turn is not compared under lightkv either."""
        model, prompts = self.make_model(), (self.pair[0], Prompt(2, 1, 3, seed=7))
        turns = [self.make_inputs(model, [prompt]) for prompt in prompts]
        first = self.generate(model, turns[0])
        whole = self.joined(self.extended(model, turns[0], self.new_tokens(first)), turns[1])
        call = self.later_call(model, whole, turns[1])
        later = self.logits(model, call, past_key_values=first.past_key_values)
        gap = (later - self.logits(model, whole)).abs().max()
        assert (gap > 100 * self.exact) == ("later image" in self.cannot)


class GlmGrids(Grids):
    """Frames of a clip have placeholders of images: token types tell them apart."""

    adapter = Glm4vAdapter
    token = IMAGE

    def kinds_of(self, ids):
        return (ids == IMAGE).int() * (1 if self.kind == "image" else 2)


class Deepstack(Grids):
    """Features of three tower layers are added after the first three of nine decoder layers."""

    adapter = Qwen3VLAdapter
    layers, first_layer = 9, 3
    schedule = (
        {"after_layer": 4, "ratio": 0.5, "windows": 2},
        {"after_layer": 6, "ratio": 0.5, "windows": 1},
    )
    tower = tower(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1, 2])

    def test_nothing_is_compressed_before_the_last_added_features(self):
        early = [{"after_layer": self.first_layer - 1, "ratio": 0.5}]
        run = self.session(self.make_model(), (), schedule=early)
        with pytest.raises(ConfigError, match="use 3 … 8"):
            run.__enter__()


class Clips(Grids):
    """Clips in place of images: the laws that the places of their tokens could break.

    Not the whole contract, which images have shown.
    """

    kind = "video"
    grids = ((3, 8, 8), (2, 8, 12))

    def test_drop_equals_mask(self):
        found, wanted = self.drop_and_mask(self.make_model(), self.batch, "random", eager=False)
        self.check_close(found, wanted)

    def test_batch_equals_single(self):
        self.batch_and_alone(self.make_model(), "lightkv")

    @pytest.mark.parametrize("later", [Prompt(3, 1, 4, seed=7), Prompt(3, 0, 4, seed=7)])
    def test_second_turn(self, later):
        if later.images:
            self.need("later image")
        found, wanted, _ = self.converse(self.make_model(), self.pair, later, "random", eager=False)
        self.check_close(found, wanted)

    def test_windows_span_space_and_time(self):
        """Two by two windows over all three frames, of which half is left."""
        prompt, windows = Prompt(2, 1, 3, seed=0), {"space": 2, "time": 3}
        schedule = [{**self.schedule[0], "windows": windows}]
        model = self.make_model()
        with self.session(model, (prompt,), schedule=schedule) as run:
            self.generate(model, self.make_inputs(model, (prompt,)))
        assert run.last.samples[0].vision_tokens[-1] == 24
