"""The contract of the adapter of EVE's own code, on a structural stand-in."""

import pytest
import torch
from rows import left_padded, row_ids
from standins.bench import LegacySuite, check_truth, layout_of, refused
from standins.eve import CELL, IMAGE_TOKEN_INDEX, EVELlamaForCausalLM

import lightkv
from lightkv.adapters.families.eve import EVEAdapter
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.core.layout import SEPARATOR
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


class TestEVE(LegacySuite):
    """Rows that are equally long with their images in place: others EVE pads on the right."""

    cannot = {
        **LegacySuite.cannot,
        "unequal turns": "the code pads rows of unequal length on the right",
    }
    pair = (Prompt(2, 1, 3, seed=1), Prompt(3, 1, 2, seed=2))
    batch = (Prompt(2, 2, 3, seed=1), Prompt(3, 2, 2, seed=2), Prompt(4, 2, 1, seed=3))

    def make_model(self, attn_implementation="eager", dtype=torch.float32):
        torch.manual_seed(0)
        return EVELlamaForCausalLM().to(dtype).eval()

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

    def go_on(self, model, inputs, past):
        if "images" in inputs:
            # Its forward expects a mask as long as the ids, which cannot tell of older entries.
            inputs = {**inputs, "attention_mask": None}
        return self.call(model, inputs, past_key_values=past, use_cache=True)

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


def test_the_mask_of_the_last_layer_is_made_to_fit_layer_0():
    """Hazard: decoding masks as many entries as the *last* layer holds."""
    from lightkv.adapters.remote.adapter import RemoteAttachment

    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch)
    with suite.session(model, suite.batch, "random"):
        suite.generate(model, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteAttachment, "_fitted", lambda *_: None)
        with pytest.raises(RuntimeError, match="does not fit"), suite.session(model, suite.batch):
            suite.generate(model, inputs)


def test_rows_that_the_model_pads_on_the_right_are_refused():
    suite = TestEVE()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 2, 3), Prompt(2, 1, 5)])
    assert model(**inputs).logits.shape[0] == 2
    for given in (inputs, {**inputs, "attention_mask": None}):
        session = lightkv.compress(model, "lightkv", retention=0.8)
        refused(LayoutError, "padding|pads", session, lambda given=given: model(**given))


def test_left_padded_ids_decode_as_their_rows_alone():
    """Same images, texts of different lengths: the padding is inside the ids.

    Angles count padding here (no position ids reach the decoder), so rows alone are padded too.
    """
    suite = TestEVE()
    model = suite.make_model()
    prompts = (Prompt(2, 2, 3, seed=1), Prompt(3, 2, 6, seed=2))
    found, wanted = suite.drop_and_mask(model, prompts, "random", eager=True)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_bad_input_is_refused():
    suite = TestEVE()
    model = suite.make_model()
    before = snapshot(model)
    inputs = suite.make_inputs(model, suite.batch[:1])

    def session(**options):
        return lightkv.compress(model, "lightkv", retention=0.8, **options)

    for images in (inputs["images"][:1], torch.cat([inputs["images"]] * 2), []):
        given = {**inputs, "images": images}
        refused(LayoutError, "2 image sentinels", session(), lambda given=given: model(**given))
    labels = {**inputs, "labels": inputs["input_ids"]}
    refused(SessionError, "labels", session(), lambda: model(**labels))
    refused(SessionError, "tuple", session(), lambda: model(**inputs, past_key_values=object()))
    embeddings = torch.randn(1, 9, 64)
    refused(
        ModelError, "embeddings reached", session(), lambda: model.model(inputs_embeds=embeddings)
    )
    assert snapshot(model) == before


def test_sliced_projections_are_refused():
    """With pretraining_tp > 1 the projections do not run as modules, so nobody sees queries."""
    suite = TestEVE()
    model = suite.make_model()

    def sliced(self, states):
        return torch.nn.functional.linear(states, self.weight)

    for layer in model.model.layers:
        project = layer.self_attn.q_proj
        layer.self_attn.q_proj = torch.nn.Module()
        layer.self_attn.q_proj.weight = project.weight
        layer.self_attn.q_proj.forward = sliced.__get__(layer.self_attn.q_proj)
        # What a call through the module would be, without its hooks.
        layer.self_attn.q_proj.__class__ = type(
            "Sliced", (torch.nn.Module,), {"__call__": lambda self, x: self.forward(x)}
        )
    inputs = suite.make_inputs(model, suite.batch[:1])
    refused(
        ModelError, "pretraining_tp|asked for", suite.session(model, ()), lambda: model(**inputs)
    )
