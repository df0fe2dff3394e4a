"""The contract of the adapter of EVE's own code, on a stand-in around the installed Llama."""

from contextlib import contextmanager

import pytest
import torch
from rows import left_padded, row_ids
from standins.bench import check_truth, layout_of, refused
from standins.eve import CELL, IMAGE_TOKEN_INDEX, EVELlamaForCausalLM, eve_config
from standins.legacy import greedy

import lightkv
from lightkv.adapters.families.eve import EVEAdapter, cells_of
from lightkv.checkpoints.original_code import mend
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.core.layout import SEPARATOR
from lightkv.testing import AdapterSuite
from lightkv.testing.adapters import Prompt
from lightkv.testing.oracles import snapshot
from lightkv.testing.truth import points

CANVAS, GRIDS = 64, [(5, 3), (4, 6)]
SENTINEL = IMAGE_TOKEN_INDEX


def image(rows, columns, generator):
    """A picture of rows × columns cells on a square canvas, its fourth channel says where."""
    canvas = torch.zeros(4, CANVAS, CANVAS)
    height, width = rows * CELL, columns * CELL
    canvas[:3, :height, :width] = torch.randn(3, height, width, generator=generator)
    canvas[3, :height, :width] = 1
    return canvas


def grid_of(canvas):
    """Rows and columns of the cells of a picture."""
    return tuple(int((canvas[3].amax(axis) > 0).sum()) // CELL for axis in (1, 0))


class TestEVE(AdapterSuite):
    """Rows that are equally long with their images in place: others EVE pads on the right."""

    cannot = {
        "unequal turns": "the code pads rows of unequal length on the right",
        "image at the end": "the prompts of that test are of unequal length",
        "cropping": "that test counts text in ids, which hold a sentinel for an image; tested below",
        "embeddings": "the outer forward takes ids; embeddings are refused, tested below",
        "assisted": "its `prepare_inputs_for_generation` feeds one token on a filled cache",
        "gradient checkpointing": "its forward has no `logits_to_keep`, by which the loss is cut",
    }
    pair = (Prompt(2, 1, 3, seed=1), Prompt(3, 1, 2, seed=2))
    batch = (Prompt(2, 2, 3, seed=1), Prompt(3, 2, 2, seed=2), Prompt(4, 2, 1, seed=3))
    beam_prompts = batch[:2]

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        torch.manual_seed(0)
        config = eve_config(attn_implementation=attn_implementation)
        return mend(EVELlamaForCausalLM(config).to(dtype).eval())

    def make_inputs(self, model, prompts):
        rows, images = [], []
        for prompt in prompts:
            ids, generator = row_ids(prompt, [[SENTINEL]] * prompt.images)
            rows.append(ids)
            images += [image(*grid, generator) for grid in GRIDS[: prompt.images]]
        inputs = left_padded(rows)
        if images:
            inputs["images"] = torch.stack(images).to(model.dtype)
        return inputs

    def expanded(self, inputs, values, inside):
        """`[B, N′]` values of ids `[B, N]`, with `inside` at the places of the images' tokens."""
        if "images" not in inputs:
            return values
        out, grids = [], [grid_of(one) for one in inputs["images"]]
        for ids, row in zip(inputs["input_ids"], values, strict=True):
            parts = []
            for token, value in zip(ids.tolist(), row.tolist(), strict=True):
                count = 1
                if token == SENTINEL:
                    rows, columns = grids.pop(0)
                    count, value = 1 + rows * (columns + 1), inside
                parts += [value] * count
            out.append(parts)
        return torch.tensor(out, dtype=torch.bool)

    def valid(self, model, inputs):
        return self.expanded(inputs, inputs["attention_mask"].bool(), True)

    def vision_mask(self, model, inputs, prompts):
        return self.expanded(inputs, torch.zeros_like(inputs["input_ids"]).bool(), True)

    def decoder(self, model):
        return model.model

    def call(self, model, inputs, **changes):
        changes.pop("position_ids", None)  # its forward takes none
        return model(**inputs, **changes)

    def generate(self, model, inputs, past_key_values=None, **changes):
        changes.pop("logits_to_keep", None)  # its forward takes none
        if past_key_values is None:
            return super().generate(model, inputs, **changes)
        # By hand: on a filled cache its `prepare_inputs_for_generation` feeds the last id alone.
        state = {"past": past_key_values}

        def step(given, tokens):
            given = {"input_ids": tokens} if tokens is not None else given
            out = self.call(
                model,
                {**given, "attention_mask": None},
                past_key_values=state["past"],
                use_cache=True,
            )
            state["past"] = out.past_key_values
            return out

        with torch.no_grad():
            return greedy(step, inputs, **{"max_new_tokens": self.steps, **changes})

    @contextmanager
    def record(self, model, layer):
        """Its forward takes no positions: what the decoder counts is seen in the angles alone."""
        with super().record(model, layer) as recorder:
            recorder.all_position_ids = lambda batch: torch.zeros(batch, 0)
            yield recorder

    def later_call(self, model, whole, later):
        """The answer's last token, which was never fed, and the new turn."""
        new = later["input_ids"].shape[1] + 1
        return {**later, "input_ids": whole["input_ids"][:, -new:]}

    def spoiled(self, model, inputs, prompts):
        ids = inputs["input_ids"].clone()
        ids[0, int((ids[0] == SENTINEL).nonzero().max())] = 9
        return {**inputs, "input_ids": ids}

    def masked_logits(self, model, prompts, tokens, positions, session, *, eager):
        return super().masked_logits(
            model, prompts, tokens, torch.zeros(1, 0), session, eager=eager
        )

    def drop_and_mask(self, model, prompts, pipeline, *, eager, **changes):
        inputs = self.make_inputs(model, prompts)
        with self.session(model, prompts, pipeline, trace=True, **changes) as session:
            out = self.generate(model, inputs)
        tokens = self.new_tokens(out)
        wanted = self.masked_logits(model, prompts, tokens, None, session, eager=eager)
        return torch.stack(out.logits, dim=1), wanted


def test_it_is_found_by_the_class_name():
    model = TestEVE().make_model()
    with lightkv.compress(model, "lightkv", retention=0.7) as session:
        assert isinstance(session.adapter, EVEAdapter)


@pytest.mark.parametrize("prompt", [Prompt(2, 1, 3), Prompt(5, 2, 6), Prompt(4, 0, 2)])
def test_prompts_of_every_kind_alone(prompt):
    suite = TestEVE()
    model = suite.make_model()
    if not prompt.images:
        plain = suite.logits(model, suite.make_inputs(model, [prompt]))
        with suite.session(model, [prompt]):
            assert torch.equal(suite.logits(model, suite.make_inputs(model, [prompt])), plain)
        return
    found, wanted = suite.drop_and_mask(model, [prompt], "fastv", eager=True)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_layout_truth_of_pictures_that_are_not_square(monkeypatch):
    suite, generator = TestEVE(), torch.Generator().manual_seed(1)
    model, adapter = suite.make_model(), EVEAdapter()
    ids = torch.tensor([[50, SENTINEL, 51, SENTINEL, 52]])
    images = torch.stack([image(*grid, generator) for grid in GRIDS])
    inputs = {"input_ids": ids, "images": images}
    for number, (rows, columns) in enumerate(GRIDS):
        for y, x in points(rows, columns):
            painted = images.clone()
            top, left = int(y * rows) * CELL, int(x * columns) * CELL
            painted[number, :3, top : top + CELL, left : left + CELL] += 3.0
            changed = {**inputs, "images": painted}
            sample = check_truth(adapter, model, inputs, changed, {number: (0, y, x)}, monkeypatch)
    assert [view.grid for view in sample.views] == [(1, *grid) for grid in GRIDS]
    assert [view.image for view in sample.views] == [0, 1]


def test_class_and_split_tokens_show_no_patch_and_stay():
    """They are vision tokens that a window leaves alone, like the newlines of LLaVA-NeXT."""
    suite = TestEVE()
    model = suite.make_model()
    ids = torch.tensor([[50, SENTINEL, 52]])
    generator = torch.Generator().manual_seed(1)
    inputs = {"input_ids": ids, "images": image(4, 6, generator)[None]}
    with pytest.MonkeyPatch.context() as patch:
        layout = layout_of(EVEAdapter(), model, lambda: model(**inputs), patch)
    cells = layout.samples[0].views[0].cells
    assert cells.tolist() == [
        SEPARATOR,
        *(cell for row in range(4) for cell in [*range(6 * row, 6 * row + 6), SEPARATOR]),
    ]
    schedule = [{"after_layer": 2, "ratio": 0.5, "windows": 2}]
    with lightkv.compress(model, "lightkv", schedule=schedule, trace=True) as session:
        model(**inputs)
    survivors = set(session.last.provenance().survivor.tolist())
    assert {0, 7, 14, 21, 28} <= survivors
    assert len(survivors) == 5 + 12


def test_the_mask_of_another_length_is_made_to_fit_layer_0():
    """Hazard: the mask of a later pass counts sentinels, or the entries of the last layer."""
    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.pair)
    found = []
    for columns in (None, 6, 40):
        with suite.session(model, suite.pair, "random"), torch.no_grad():
            past = suite.call(model, inputs, use_cache=True).past_key_values
            mask = None if columns is None else torch.ones(2, columns)
            token = {"input_ids": torch.tensor([[9], [10]]), "attention_mask": mask}
            found.append(suite.call(model, token, past_key_values=past, use_cache=True).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_rows_that_the_model_pads_on_the_right_are_refused():
    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 2, 3), Prompt(2, 1, 5)])
    assert model(**inputs).logits.shape[0] == 2
    for given in (inputs, {**inputs, "attention_mask": None}):
        session = lightkv.compress(model, "lightkv", retention=0.8)
        refused(LayoutError, "padding|pads", session, lambda given=given: model(**given))


def test_padding_beside_images_is_refused():
    """The code lengthens masks on their left, so zeros of padding would hide tokens of the image."""
    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, (Prompt(2, 2, 3, seed=1), Prompt(3, 2, 6, seed=2)))
    refused(LayoutError, "padding moves into", suite.session(model, ()), lambda: model(**inputs))


@pytest.mark.parametrize("sizes", [[(5, 3), (4, 6)], [(8, 8), (1, 1)], [(0, 0), (2, 7)]])
def test_cells_are_those_that_the_model_counts(sizes):
    generator = torch.Generator().manual_seed(2)
    images = torch.stack([image(*size, generator) for size in sizes]).roll((8, 16), (2, 3))
    tower = TestEVE().make_model().model.vision_tower
    _, told = tower(images, torch.nn.Identity())
    assert cells_of(images, tower.patch_stride, tower.conv_stride) == [
        tuple(size.tolist()) for size in told
    ]


def test_beams_of_a_row_with_two_images_see_both():
    """transformers repeats images one by one; a row's own images belong together."""
    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch[:1])
    inputs["images"][1] = inputs["images"][0].flip(2)  # of one size: nothing else would notice
    with suite.session(model, suite.batch[:1], "fastv"):
        one = suite.generate(model, inputs, max_new_tokens=1).logits[0]
        more = suite.generate(model, inputs, max_new_tokens=1, num_beams=3).logits[0]
    torch.testing.assert_close(more, one.expand(3, -1), atol=suite.exact, rtol=0)


def test_a_cropped_cache_goes_on_where_it_was_cut():
    suite, found = TestEVE(), []
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.pair[:1])
    for extra in (0, 2):
        for schedule in ([{"after_layer": 0, "ratio": 0.5}], suite.schedule):
            session = suite.session(model, suite.pair[:1], "random", schedule=schedule)
            with session, torch.no_grad():
                past = suite.call(model, inputs, use_cache=True).past_key_values
                for token in [9, 10, 11][: 1 + extra]:
                    ids = torch.tensor([[token]])
                    model(input_ids=ids, past_key_values=past, use_cache=True)
                if extra:
                    past.crop(-extra)
                ids = torch.tensor([[12]])
                found.append(model(input_ids=ids, past_key_values=past, use_cache=True).logits)
    for plain, cropped in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(cropped, plain, atol=suite.exact, rtol=0)


def test_with_the_helper_the_cache_is_used():
    """The published code takes the empty cache for a full one, or (from 5.24 on) sees none at all."""
    suite = TestEVE()
    model = suite.make_model()
    inputs, fed = suite.make_inputs(model, suite.batch[:1]), []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda module, args: fed.append(args[0].shape[1])
    )
    suite.generate(mend(model), inputs)
    handle.remove()
    assert fed[0] > inputs["input_ids"].shape[1]
    assert fed[1:] == [1, 1, 1]


def test_the_helper_refuses_what_the_code_cannot_do():
    suite = TestEVE()
    model = suite.make_model()
    with pytest.raises(ModelError, match="lacks"):
        mend(torch.nn.Linear(1, 1))
    with torch.no_grad():
        past = model(input_ids=torch.tensor([[7, 8, 9]]), use_cache=True).past_key_values
    whole = torch.tensor([[7, 8, 9, 10, 11]])
    with pytest.raises(ModelError, match="neither a later turn nor"):
        model.generate(input_ids=whole, past_key_values=past, max_new_tokens=1)


def test_bad_input_is_refused():
    suite = TestEVE()
    model = suite.make_model()
    before = snapshot(model)
    inputs = suite.make_inputs(model, suite.batch[:1])

    def session(**options):
        return lightkv.compress(model, "lightkv", retention=0.8, **options)

    for images in (inputs["images"][:1], torch.cat([inputs["images"]] * 2)):
        given = {**inputs, "images": images}
        refused(LayoutError, "2 image sentinels", session(), lambda given=given: model(**given))
    for images in ([], list(inputs["images"]), inputs["images"][None], inputs["images"][:, :3]):
        given = {**inputs, "images": images}  # the published code would end the process
        refused(LayoutError, "one tensor", session(), lambda given=given: model(**given))
    labels = {**inputs, "labels": inputs["input_ids"]}
    refused(SessionError, "labels", session(), lambda: model(**labels))
    embeddings = {"inputs_embeds": torch.randn(1, 9, 64)}
    refused(ModelError, "takes ids", session(), lambda: model(**embeddings))
    refused(ModelError, "embeddings were given", session(), lambda: model.model(**embeddings))
    assert snapshot(model) == before
