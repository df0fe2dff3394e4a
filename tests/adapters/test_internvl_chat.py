"""The contract of the adapter of InternVL2's own code, on a structural stand-in."""

import pytest
import torch
from rows import left_padded, row_ids
from standins.bench import IMAGE, LegacySuite, check_truth, layout_of, refused
from standins.internvl_chat import (
    TILE,
    InternLM2ForCausalLM,
    InternVLChatModel,
    chat_config,
    spaced,
)
from tiles import cut, smooth
from transformers import PreTrainedConfig, PreTrainedModel

import lightkv
from lightkv.adapters.families.internvl_chat import InternVLChatAdapter
from lightkv.checkpoints.original_code import mend
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.testing.adapters import MIXED, Prompt
from lightkv.testing.oracles import snapshot
from lightkv.testing.truth import points

SIDE = 3


class TestInternVLChat(LegacySuite):
    def make_model(self, attn_implementation="eager", dtype=torch.float32, **changes):
        torch.manual_seed(0)
        model = InternVLChatModel(spaced(chat_config(**changes))).to(dtype).eval()
        model.img_context_token_id = IMAGE
        return model

    def make_inputs(self, model, prompts):
        """The first image of a prompt is cut into 1 × 2 tiles, others are one tile."""
        rows, pixels = [], []
        for prompt in prompts:
            counts = [3 if number == 0 else 1 for number in range(prompt.images)]
            ids, generator = row_ids(prompt, [[IMAGE] * (n * SIDE * SIDE) for n in counts])
            rows.append(ids)
            for count in counts:
                tiles = cut(smooth(1, count // 2 + 1, generator), 1, count // 2 + 1)
                pixels.append(tiles if count > 1 else tiles[:1])
        inputs = left_padded(rows)
        if pixels:
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == IMAGE

    def decoder(self, model):
        return model.language_model.model

    def part(self, layer, name):
        return {"self_attn": layer.attention, "mlp": layer.feed_forward}[name]

    def call(self, model, inputs, **changes):
        if "pixel_values" not in inputs:
            return model.language_model(**inputs, **changes)
        return model(**inputs, image_flags=flags(inputs), **changes)

    def go_on(self, model, inputs, past):
        places = (inputs["attention_mask"].cumsum(-1) - 1)[:, -inputs["input_ids"].shape[1] :]
        return self.call(model, inputs, past_key_values=past, position_ids=places, use_cache=True)


def flags(inputs):
    return torch.ones(len(inputs["pixel_values"]), 1, dtype=torch.long)


def inputs_of(picture, rows, columns):
    tiles = cut(picture, rows, columns)
    ids = torch.tensor([[7, *[IMAGE] * (len(tiles) * SIDE * SIDE), 8, 9]])
    return {"input_ids": ids, "pixel_values": tiles, "image_flags": torch.ones(len(tiles), 1)}


def test_it_is_found_by_the_class_name():
    model = TestInternVLChat().make_model()
    with lightkv.compress(model, "lightkv", retention=0.7) as session:
        assert isinstance(session.adapter, InternVLChatAdapter)


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 6)])
def test_layout_truth_with_six_tiles(rows, columns, version, monkeypatch):
    model = TestInternVLChat().make_model(ps_version=version)
    picture = smooth(rows, columns, torch.Generator().manual_seed(1))
    inputs = inputs_of(picture, rows, columns)
    for y, x in points(rows * SIDE, columns * SIDE):
        changed, size = picture.clone(), TILE // SIDE
        top, left = int(y * rows * SIDE) * size, int(x * columns * SIDE) * size
        changed[:, top : top + size, left : left + size] += 3.0
        painted = inputs_of(changed, rows, columns)
        painted["pixel_values"][-1] = inputs["pixel_values"][-1]
        sample = check_truth(
            InternVLChatAdapter(), model, inputs, painted, {0: (0, y, x)}, monkeypatch
        )
        assert [view.grid for view in sample.views] == [
            (1, rows * SIDE, columns * SIDE),
            (1, SIDE, SIDE),
        ]


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_layout_truth_of_the_thumbnail(version, monkeypatch):
    model = TestInternVLChat().make_model(ps_version=version)
    inputs = inputs_of(smooth(1, 2, torch.Generator().manual_seed(1)), 1, 2)
    for y, x in points(SIDE, SIDE):
        painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
        top, left = int(y * SIDE) * 16, int(x * SIDE) * 16
        painted["pixel_values"][-1, :, top : top + 16, left : left + 16] += 3.0
        check_truth(InternVLChatAdapter(), model, inputs, painted, {1: (0, y, x)}, monkeypatch)


def test_images_are_told_apart(monkeypatch):
    """Also between `generate` and a direct call, whose dummies are marked by flags."""
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 2, 3)])
    layout = layout_of(
        InternVLChatAdapter(),
        model,
        lambda: model.generate(**inputs, max_new_tokens=1),
        monkeypatch,
    )
    assert [(v.image, v.grid) for v in layout.samples[0].views] == [
        (0, (1, 3, 6)),
        (0, (1, 3, 3)),
        (1, (1, 3, 3)),
    ]
    dummy = torch.zeros(1, 3, TILE, TILE)
    more = {
        **inputs,
        "pixel_values": torch.cat([inputs["pixel_values"], dummy]),
        "image_flags": torch.tensor([[1]] * 4 + [[0]]),
    }
    same = layout_of(InternVLChatAdapter(), model, lambda: model(**more), monkeypatch)
    assert same.key == layout.key


def test_chat_is_compressed():
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED[:1])
    model.img_context_token_id = None
    with suite.session(model, MIXED[:1]) as session:
        ids, pixels = inputs["input_ids"], inputs["pixel_values"]
        out = model.chat(ids, pixels, {"max_new_tokens": 3}, context_id=IMAGE)
    assert out.sequences.shape == (1, 3)
    assert session.last.retention < 0.8
    assert session.last.decode_steps == 2


@pytest.mark.parametrize("positions", ["keep", "renumber", "renumber-contiguous", "barycentric"])
def test_the_table_of_angles_covers_original_positions(positions):
    """Without the session's hooks on `rotary_emb` the short layers' tables are too short."""
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED)
    asked = []
    with suite.session(model, MIXED, positions=positions):
        rotary = model.language_model.model.layers[-1].attention.rotary_emb
        handle = rotary.register_forward_pre_hook(
            lambda module, args, kwargs: asked.append(kwargs["seq_len"]), with_kwargs=True
        )
        suite.generate(model, inputs)
        handle.remove()
    length = inputs["input_ids"].shape[1]
    assert asked == [length + step for step in range(suite.steps)]


def test_without_raised_tables_the_hazard_is_real(monkeypatch):
    from lightkv.adapters.remote.adapter import RemoteAttachment

    monkeypatch.setattr(RemoteAttachment, "_on_rotary", lambda *_: None)
    suite = TestInternVLChat()
    model = suite.make_model()
    with pytest.raises(IndexError), suite.session(model, MIXED[:1], "random"):
        suite.generate(model, suite.make_inputs(model, MIXED[:1]))


def test_dynamic_scaling_follows_the_uncompressed_length():
    """The table's base changes at 32 positions; short layers must change it just the same.

    One step only: later ones see keys of an older base, which one pass over everything does not.
    """
    suite = TestInternVLChat()
    suite.steps = 1
    model = suite.make_model(text={"max_position_embeddings": 32})
    found, wanted = suite.drop_and_mask(model, MIXED[:1], "random", eager=True)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_a_second_turn_on_the_same_cache():
    """A continued cache is masked right; two continuations of one cache do not disturb each other."""
    suite = TestInternVLChat()
    model = suite.make_model()
    lm, inputs = model.language_model, suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED), torch.no_grad():
        out = suite.call(model, inputs, use_cache=True)
        past = out.past_key_values
        new = torch.randint(20, 200, (3, 4))
        mask = suite.longer_mask(inputs, new)
        positions = (mask.cumsum(-1) - 1)[:, -4:]
        # Beams reorder rows: the tensors are new, their lengths tell.
        order = torch.tensor([0, 1, 2])
        moved = tuple(tuple(t.index_select(0, order) for t in pair) for pair in past)
        again = lm(new, past_key_values=moved, attention_mask=mask, position_ids=positions)
        whole = lm(new, past_key_values=past, attention_mask=mask, position_ids=positions)
        steps, cache = [], past
        for step in range(4):
            one = lm(
                new[:, step : step + 1],
                past_key_values=cache,
                attention_mask=mask[:, : mask.shape[1] - 3 + step],
                position_ids=positions[:, step : step + 1],
            )
            cache = one.past_key_values
            steps.append(one.logits)
        torch.testing.assert_close(torch.cat(steps, 1), whole.logits, atol=1e-5, rtol=0)
        assert torch.equal(again.logits, whole.logits)
        short = tuple((k[:, :, :-1], v[:, :, :-1]) for k, v in past)
        with pytest.raises(SessionError, match="different numbers"):
            lm(new, past_key_values=short, attention_mask=mask[:, 1:], position_ids=positions)


def test_repeated_rows_share_the_selection_of_their_prompt():
    """Rows are repeated inside `language_model.generate`, after the ids were seen."""
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED, "random") as session:
        once = torch.stack(suite.generate(model, inputs).logits)
    with suite.session(model, MIXED, "random") as session:
        thrice = model.generate(**inputs, num_return_sequences=3, max_new_tokens=suite.steps)
    assert len(session.last.samples) == 9
    found = torch.stack(thrice.logits)[0].view(3, 3, -1)
    torch.testing.assert_close(found, once[0][:, None].expand(-1, 3, -1), atol=suite.exact, rtol=0)


def test_arguments_of_a_layer_may_come_by_place():
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED):
        named = suite.logits(model, inputs)
        model.language_model.model.by_place = True
        assert torch.equal(suite.logits(model, inputs), named)


def test_tiles_without_a_thumbnail_are_refused():
    suite = TestInternVLChat()
    model = suite.make_model()
    model.config.use_thumbnail = False
    inputs = suite.make_inputs(model, MIXED[:1])
    refused(ModelError, "thumbnail", suite.session(model, ()), lambda: suite.call(model, inputs))


def test_bad_input_is_refused():
    suite, adapter = TestInternVLChat(), InternVLChatAdapter()
    model = suite.make_model()
    before = snapshot(model)
    inputs = suite.make_inputs(model, MIXED[:1])

    def session(**options):
        return lightkv.compress(model, "random", adapter=adapter, retention=0.8, **options)

    model.img_context_token_id = None
    refused(ModelError, "IMG_CONTEXT", session(), lambda: model.generate(**inputs))
    refused(ModelError, "IMG_CONTEXT", session(), lambda: suite.call(model, inputs))
    model.img_context_token_id = IMAGE
    embeddings = model.language_model.get_input_embeddings()(inputs["input_ids"])
    refused(
        ModelError,
        "embeddings reached",
        session(),
        lambda: model.language_model.generate(
            inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], max_new_tokens=1
        ),
    )
    ids = torch.tensor([[7, *[IMAGE] * 10, 8]])
    tile = {"input_ids": ids, "pixel_values": torch.randn(1, 3, TILE, TILE)}
    tile["attention_mask"] = torch.ones_like(ids)
    refused(LayoutError, "10 placeholders", session(), lambda: suite.call(model, tile))
    right = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    right["attention_mask"][0, -2:] = 0
    refused(LayoutError, "after the first token", session(), lambda: suite.call(model, right))
    labels = {**inputs, "labels": inputs["input_ids"]}
    refused(SessionError, "labels", session(), lambda: suite.call(model, labels))
    cache = {"past_key_values": object()}
    refused(SessionError, "tuple", session(), lambda: suite.call(model, inputs, **cache))
    assert snapshot(model) == before


def test_flash_attention_and_other_decoders_are_refused():
    suite = TestInternVLChat()
    flash = suite.make_model(text={"attn_implementation": "flash_attention_2"})
    refused(ModelError, "no mask", suite.session(flash, MIXED), lambda: None)
    other = suite.make_model()
    for layer in other.language_model.model.layers:
        del layer.attention.wqkv
    refused(ModelError, "not InternLM2", suite.session(other, MIXED), lambda: None)


def test_tables_that_from_pretrained_left_uninitialised_are_refused_and_mended():
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED[:1])
    plain = suite.logits(model, inputs)
    layers = model.language_model.model.layers
    for layer, spoil in (
        (5, lambda cos, sin: cos.fill_(0.3)),
        (0, lambda cos, sin: sin[3:].zero_()),
    ):
        rotary = layers[layer].attention.rotary_emb
        spoil(rotary.cos_cached, rotary.sin_cached)
        refused(ModelError, f"layer {layer} hold no angles|rotary", suite.session(model, ()), dict)
    mend(model)
    with suite.session(model, MIXED[:1], schedule=[]):
        assert torch.equal(suite.logits(model, inputs), plain)


def test_tables_that_have_grown_are_right():
    suite = TestInternVLChat()
    model = suite.make_model(text={"max_position_embeddings": 32})
    inputs = suite.make_inputs(model, MIXED[:1])
    plain = suite.logits(model, inputs)
    assert model.language_model.model.layers[0].attention.rotary_emb.max_seq_len_cached > 32
    with suite.session(model, MIXED[:1]):
        assert suite.logits(model, inputs).shape == plain.shape


class Published(PreTrainedModel):
    """The language model as its class is on transformers 5: without `generate`."""

    config_class = PreTrainedConfig

    def __init__(self, config, own):
        super().__init__(config)
        self.model, self.output = own.model, own.output

    forward = InternLM2ForCausalLM.forward
    get_input_embeddings = InternLM2ForCausalLM.get_input_embeddings


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_of_transformers_on_a_mended_model(beams):
    """The same logits as the rules of transformers 4; beams of a prompt share its selection."""
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED, "fastv"):
        wanted = suite.logits(model, inputs)
    config = PreTrainedConfig(num_hidden_layers=6, vocab_size=200)
    model.language_model = Published(config, model.language_model).eval()
    refused(ModelError, "mend", suite.session(model, ()), lambda: suite.generate(model, inputs))
    options = {
        "num_beams": beams,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    with suite.session(mend(model), MIXED, "fastv") as session:
        out = suite.generate(model, inputs, **options)
    assert len(session.last.samples) == beams * len(MIXED)
    assert isinstance(out.past_key_values, tuple)
    first = out.logits[0].view(len(MIXED), beams, -1)
    found = torch.stack(out.logits, dim=1) if beams == 1 else first
    wanted = wanted if beams == 1 else wanted[:, :1].expand(-1, beams, -1)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_a_layout_of_the_caller():
    """For embeddings that were made elsewhere."""
    suite = TestInternVLChat()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 1, 3)])
    features = model.extract_feature(inputs["pixel_values"])
    embeddings = model._embeddings(inputs["input_ids"], features)
    layout = lightkv.VisionLayout.from_spans([[(2, (3, 3, 3))]])
    with lightkv.compress(model, "lightkv", layout=layout, schedule=suite.schedule[:1]) as session:
        model.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=inputs["attention_mask"],
            max_new_tokens=3,
        )
    assert session.last.samples[0].original == 27
    assert session.last.retention < 0.8
