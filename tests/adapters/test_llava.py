"""The contract of the LLaVA adapter, on a tiny CLIP + Llama with random weights."""

import pytest
import torch
from rows import picture_rows
from tiny import tiny_llava

import lightkv
from lightkv.adapters.families.llava import LlavaAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.oracles import Recorder

IMAGE, SIDE = 5, 6
SCHEDULE = list(AdapterSuite.schedule)


class TestLlava(AdapterSuite):
    class_token = True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llava(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return picture_rows(model, prompts, [IMAGE] * SIDE * SIDE, 48)


def inputs_of(model, *prompts):
    return TestLlava().make_inputs(model, prompts)


def test_the_class_token_is_a_vision_token_without_a_cell():
    model = tiny_llava(vision_feature_select_strategy="full")
    ids = torch.tensor([[7, *[IMAGE] * 37, 8, 9]])
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE, trace=True) as run:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 48, 48))
    assert run.last.samples[0].original == 37
    # Separators stand outside all windows, so the class token survives every stage by itself.
    provenance = run.last.provenance()
    assert int(provenance.survivor[0]) == 0
    assert int((provenance.slot == 0).sum()) == 1


def test_a_wrong_number_of_placeholders_is_refused():
    model = tiny_llava()
    inputs = {"input_ids": torch.tensor([[7, *[IMAGE] * 35, 8]]), "pixel_values": torch.ones(1)}
    with pytest.raises(LayoutError, match="35 image placeholders, but each image takes 36"):
        LlavaAdapter().layout(model, read_inputs(model.model, (), inputs))


def test_right_padding_is_refused_where_generation_follows():
    model = tiny_llava()
    inputs = inputs_of(model, Prompt(2, 1, 3))
    inputs["attention_mask"][0, -2:] = 0
    with pytest.raises(LayoutError, match="padding_side"), lightkv.compress(model, "fastv"):
        model(**inputs)


def test_embeddings_without_ids_are_refused_or_take_spans():
    model = tiny_llava()
    embeds, pixels = torch.randn(1, 44, 64), torch.randn(1, 3, 48, 48)
    embeds[0, 2:38] = model.get_input_embeddings()(torch.tensor(IMAGE))
    inputs = {"inputs_embeds": embeds.detach(), "pixel_values": pixels}
    with pytest.raises(ModelError, match="input_ids"), lightkv.compress(model, "fastv"):
        model(**inputs)
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 6, 6))]])
    with lightkv.compress(model, "fastv", layout=layout) as run:
        model(**inputs)
    assert run.last.samples[0].original == 36


def test_contiguous_positions_go_on_in_a_later_turn_with_an_image():
    """In each layer the second picture follows what that layer kept of the first turn."""
    suite, prompts = TestLlava(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    decoder = model.get_decoder()
    for layer in (2, 5):
        with suite.session(model, prompts, positions="renumber-contiguous"):
            first = suite.generate(model, suite.make_inputs(model, prompts))
            call = suite._next_turn(model, first, prompts, Prompt(2, 1, 3, seed=7))
            held = first.past_key_values.layers[layer].keys.shape[2]
            with Recorder.on(decoder, decoder.layers[layer]) as recorder:
                suite.generate(model, call, past_key_values=first.past_key_values)
        for tables in recorder.rotary:
            places = torch.arange(held, held + tables[0].shape[1])[None]
            wanted = decoder.rotary_emb(torch.zeros(1), places)
            torch.testing.assert_close(tables, tuple(wanted))
            held += tables[0].shape[1]


def test_a_loop_without_positions_is_refused_where_layer_0_is_compressed():
    model = tiny_llava()
    inputs = inputs_of(model, Prompt(2, 1, 3))
    inputs.pop("attention_mask")
    step = {"input_ids": torch.tensor([[9]])}
    schedule = [{"after_layer": 0, "ratio": 0.5}]
    with lightkv.compress(model, "random", schedule=schedule), torch.no_grad():
        cache = model(**inputs).past_key_values
        with pytest.raises(SessionError, match="after_layer >= 1"):
            model(**step, past_key_values=cache)
        length = inputs["input_ids"].shape[1]
        model(**step, past_key_values=cache, position_ids=torch.tensor([[length]]))
    assert cache.get_seq_length() == length - 18 + 1


def test_drafts_are_checked_where_layer_0_is_compressed():
    """Also there; a new turn is refused, because transformers would feed cached tokens again."""
    suite, prompts = TestLlava(), (Prompt(2, 1, 3),)
    model = suite.make_model()
    inputs, few = suite.make_inputs(model, prompts), suite._few_tokens(model)
    options = {"suppress_tokens": few, "max_new_tokens": 12}
    look_up = {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1}
    schedule = [{"after_layer": 0, "ratio": 0.5}]
    with lightkv.compress(model, "random", schedule=schedule):
        plain = suite.generate(model, inputs, **options)
    with lightkv.compress(model, "random", schedule=schedule):
        fast = suite.generate(model, inputs, **options, **look_up)
        assert torch.equal(plain.sequences, fast.sequences)
        call = suite._next_turn(model, fast, prompts)
        with pytest.raises(SessionError, match="after_layer >= 1"):
            suite.generate(model, call, past_key_values=fast.past_key_values)


def test_a_pass_that_was_interrupted_spoils_its_cache():
    model = tiny_llava()
    inputs = inputs_of(model, Prompt(2, 1, 3))
    step = {"input_ids": torch.tensor([[9]])}

    def fail(*_):
        raise KeyboardInterrupt

    with lightkv.compress(model, "lightkv", schedule=SCHEDULE), torch.no_grad():
        cache = model(**inputs).past_key_values
        handle = model.get_decoder().layers[3].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            model(**step, past_key_values=cache)
        handle.remove()
        with pytest.raises(SessionError, match="interrupted"):
            model(**step, past_key_values=cache)


def test_a_cache_that_grew_elsewhere_is_refused():
    model = tiny_llava()
    inputs = inputs_of(model, Prompt(2, 1, 3))
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE):
        cache = model(**inputs).past_key_values
        for layer in cache.layers:
            layer.update(torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16))
        with pytest.raises(SessionError, match="outside the session"):
            model(input_ids=torch.tensor([[9]]), past_key_values=cache)


def test_a_static_cache_is_refused():
    model = tiny_llava()
    suite = TestLlava()
    with pytest.raises(SessionError, match="StaticCache"), lightkv.compress(model, "fastv"):
        suite.generate(model, inputs_of(model, Prompt(2, 1, 3)), cache_implementation="static")


def test_profiles_every_role():
    model = tiny_llava()
    suite = TestLlava()
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE, profile=True) as run:
        suite.generate(model, inputs_of(model, Prompt(2, 1, 3)))
    report = run.last
    assert set(report.role_times) == {"scoring", "matching", "aggregation"}
    assert all(seconds > 0 for seconds in report.role_times.values())
    assert report.time_to_first_token > sum(report.role_times.values())
    assert report.time_per_token > 0


def test_prompt_guidance_moves_weights_but_not_the_first_matching():
    """The image stands before the question: only the weights of its merge can see the prompt."""
    model = tiny_llava()
    schedule = [{"after_layer": 2, "ratio": 0.5, "windows": 2}]
    prompts = [Prompt(2, 1, 4, seed=1)]
    inputs = [inputs_of(model, *prompts) for _ in range(2)]
    inputs[1]["input_ids"][0, -4:] = torch.tensor([50, 60, 70, 80])

    def provenance(which, scorer):
        options = {"schedule": schedule, "scorer": scorer, "trace": True}
        with lightkv.compress(model, "lightkv", **options) as run:
            model(**inputs[which])
        return run.last.provenance()

    for scorer in ("prompt-attention", "uniform"):
        one, other = provenance(0, scorer), provenance(1, scorer)
        assert torch.equal(one.slot, other.slot)
        gap = float((one.weight - other.weight).abs().max())
        assert (gap > 0) == (scorer == "prompt-attention")
