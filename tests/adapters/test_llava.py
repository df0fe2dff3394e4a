"""The contract of the LLaVA adapter, on a tiny CLIP + Llama with random weights."""

import pytest
import torch
from tiny import left_padded, tiny_llava

import lightkv
from lightkv.adapters.inputs import read_inputs
from lightkv.adapters.llava import LlavaAdapter
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.oracles import Recorder

IMAGE, SIDE = 5, 6
SCHEDULE = list(AdapterSuite.schedule)


def row_of(prompt):
    generator = torch.Generator().manual_seed(prompt.seed)
    text = torch.randint(10, 200, (prompt.before + prompt.after,), generator=generator)
    images = torch.full((prompt.images * SIDE * SIDE,), IMAGE)
    ids = torch.cat([text[: prompt.before], images, text[prompt.before :]])
    pixels = torch.randn(prompt.images, 3, 48, 48, generator=generator)
    return ids, pixels


class TestLlava(AdapterSuite):
    class_token = True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llava(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels = zip(*(row_of(prompt) for prompt in prompts), strict=True)
        ids, mask = left_padded(rows)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_second_turn_on_the_same_cache_equals_the_masked_model(attention):
    """Text that follows in a later call sees, in each layer, what that layer kept."""
    suite, prompts = TestLlava(), (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))
    model = suite.make_model(attention)
    inputs = suite.make_inputs(model, prompts)
    turn = torch.randint(10, 200, (2, 3), generator=torch.Generator().manual_seed(4))
    decoder = suite.decoder(model)
    with (
        suite.session(model, prompts, "random", trace=True) as session,
        Recorder.on(decoder, decoder.layers[0]) as recorder,
    ):
        first = suite.generate(model, inputs)
        ids = torch.cat([first.sequences, turn], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, suite.steps + 3).long()], dim=1)
        again = {"input_ids": ids, "attention_mask": mask}
        second = suite.generate(model, again, past_key_values=first.past_key_values)
    fed = torch.cat([suite.new_tokens(first), turn, suite.new_tokens(second)], dim=1)
    positions = recorder.all_position_ids(2)
    wanted = suite.masked_logits(
        model, prompts, fed, positions, session, eager=attention == "eager"
    )
    found = torch.stack(second.logits, dim=1)
    torch.testing.assert_close(found, wanted[:, -suite.steps :], atol=1e-5, rtol=0)


def test_a_second_image_in_a_later_turn_is_compressed_too():
    suite, prompts = TestLlava(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    more = inputs_of(model, Prompt(2, 1, 3, seed=7))
    with suite.session(model, prompts) as session:
        first = suite.generate(model, inputs_of(model, *prompts))
        ids = torch.cat([first.sequences, more["input_ids"]], dim=1)
        again = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        again["pixel_values"] = more["pixel_values"]
        second = suite.generate(model, again, past_key_values=first.past_key_values)
    counts = [report.samples[0].vision_tokens for report in session.reports]
    assert counts == [(36, 36, 20, 20, 10, 10)] * 2
    # Everything fed so far, less what the stages removed from each of the two images.
    fed = second.sequences.shape[1] - 1
    held = [layer.keys.shape[2] for layer in second.past_key_values.layers]
    assert held == [fed - 2 * (36 - left) for left in counts[0]]


def test_assisted_decoding_gives_the_same_tokens():
    """Prompt look-up feeds candidates, verifies them in one pass and crops the cache."""
    suite, prompts = TestLlava(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    inputs = inputs_of(model, *prompts)
    with suite.session(model, prompts, "random"):
        plain = suite.generate(model, inputs, max_new_tokens=8)
    with suite.session(model, prompts, "random"):
        assisted = suite.generate(model, inputs, max_new_tokens=8, prompt_lookup_num_tokens=2)
    assert torch.equal(plain.sequences, assisted.sequences)


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
