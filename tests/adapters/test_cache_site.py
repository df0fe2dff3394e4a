"""Stages on the cache: what is refused, and decoding by the compressed length."""

import copy

import pytest
import torch
from test_proportional import CACHE, LAYOUT, make_model
from transformers import DynamicCache, QuantizedCache

import lightkv
from lightkv.adapters.hf.cache_checks import check_cache
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, ModelError, SessionError
from lightkv.core.pipeline.pipeline import Pipeline, Recipe, resolve_spec
from lightkv.core.pipeline.schedule import Schedule

GENERIC = {"adapter": "generic", "layout": LAYOUT}


def generate(model, **changes):
    torch.manual_seed(0)
    embeddings = torch.randn(1, 13, 32)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    return model.generate(inputs_embeds=embeddings, output_logits=True, **{**options, **changes})


def test_generated_tokens_are_numbered_by_the_compressed_length():
    """ElasticCache: 12 entries and the last become 8 and the last; the first new token stands at 9."""
    model = make_model()
    found = []
    stage = [{"site": "cache", "scope": "all", "ratio": 0.4}]
    with lightkv.compress(model, "elastic-cache", schedule=stage, **GENERIC) as session:
        # Inside the session: a hook of before would see what the model wanted to pass on.
        rotary = model.model.layers[-1].register_forward_pre_hook(
            lambda m, a, k: found.append(k["position_embeddings"][0]), with_kwargs=True
        )
        out = generate(model)
    rotary.remove()
    assert session.last.cache_bytes == tuple(9 * 2 * 2 * 8 * 4 for _ in range(4))
    assert [layer.keys.shape[2] for layer in out.past_key_values.layers] == [12] * 4
    for step, table in enumerate(found[1:]):
        wanted = model.model.rotary_emb(torch.zeros(1), torch.tensor([[9 + step]]))[0]
        torch.testing.assert_close(table, wanted)


def test_the_cache_tells_what_was_fed():
    model = make_model()
    with lightkv.compress(model, "imgrand", schedule=CACHE, **GENERIC):
        cache = generate(model).past_key_values
        assert cache.get_seq_length() == 13 + 3
        assert cache.layers[0].get_seq_length() == 13 + 3 - 6
        cache.crop(-2)
        assert cache.get_seq_length() == 13 + 1
        copied = copy.deepcopy(cache)
        with pytest.raises(SessionError, match="session that made it"):
            model(input_ids=torch.tensor([[3]]), past_key_values=copied)
    with pytest.raises(SessionError):
        model(input_ids=torch.tensor([[3]]), past_key_values=cache)


def test_a_crop_goes_back_to_what_was():
    model = make_model()
    with lightkv.compress(model, "tome-cache", schedule=CACHE, **GENERIC):
        wanted = generate(model, max_new_tokens=6)
        first = generate(model, max_new_tokens=5)
        cache = first.past_key_values
        cache.crop(-2)
        tokens = wanted.sequences[:, 2:4]
        out = model(input_ids=tokens, past_key_values=cache)
        torch.testing.assert_close(out.logits[:, -1], wanted.logits[4], atol=1e-5, rtol=0)
        # Behind the image stood 5 tokens of text; 4 follow.
        cache.crop(-10)
        with pytest.raises(SessionError, match="reaches into an image"):
            model(input_ids=tokens, past_key_values=cache)


@pytest.mark.parametrize("preset", ["rand", "tome-cache"])
def test_without_a_cache_there_is_nothing_to_compress(preset):
    model = make_model()
    embeddings = torch.randn(1, 13, 32)
    plain = model(inputs_embeds=embeddings, use_cache=False).logits
    with lightkv.compress(model, preset, **GENERIC) as session:
        same = model(inputs_embeds=embeddings, use_cache=False).logits
    assert torch.equal(plain, same)
    assert session.last.cache_bytes is None


def test_caches_of_another_form_are_refused():
    pytest.importorskip("optimum.quanto")
    model = make_model()
    caches = QuantizedCache("quanto", model.config), DynamicCache(offloading=True)
    for cache in caches:
        with (
            pytest.raises(SessionError) as error,
            lightkv.compress(model, "imgrand", schedule=CACHE, **GENERIC),
        ):
            model(inputs_embeds=torch.randn(1, 13, 32), past_key_values=cache)
        assert error.value.field == "past_key_values"


def test_drafts_cannot_be_taken_back_from_a_merged_prompt():
    def check(pipeline, **changes):
        check_cache(Pipeline.build(pipeline, 4, **changes), DynamicCache(), drafts=2)

    check("imgrand")
    check("rand", retention=1.0)
    with pytest.raises(SessionError, match="drafts"):
        check("rand")


def test_sliding_layers_are_refused():
    model = make_model()
    model.config.sliding_window = 6
    with (
        pytest.raises(ModelError, match="sliding window"),
        lightkv.compress(model, "rand", **GENERIC),
    ):
        pass


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([{"site": "cache", "ratio": 0.5}, {"after_layer": 2, "ratio": 0.5}], "compressed once"),
        ([{"site": "cache", "ratio": 0.5}] * 2, "compressed once"),
        ([{"site": "cache", "after_layer": 2, "ratio": 0.5}], "leave after_layer out"),
        ([{"ratio": 0.5}], "after how many"),
        ([{"after_layer": 2, "scope": "all", "ratio": 0.5}], "cache site only"),
        ([{"site": "caches", "ratio": 0.5}], "site"),
    ],
)
def test_schedules_that_cannot_work(schedule, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(schedule)


def test_retention_counts_the_cache():
    schedule = Schedule([{"after_layer": 2, "ratio": 0.5}, {"site": "cache", "ratio": 0.4}])
    assert schedule.shares(4) == pytest.approx((0.6, 0.6, 0.3, 0.3))
    assert schedule.after_layers == (2,)
    assert Schedule(schedule.to_list()) == schedule
    solved = Recipe(site="cache", retention=0.3).schedule(32)
    assert solved.retention(32) == pytest.approx(0.3)
    assert len(Recipe(site="cache", retention=1.0).schedule(32)) == 0
    with pytest.raises(ConfigError):
        Recipe(site="cache", after_layer=2).schedule(32)


def test_recipes_and_specs_go_through_yaml():
    for name in ("rand", "imgrand", "tome-cache", "elastic-cache"):
        spec = resolve_spec(name)
        assert type(spec).from_yaml(spec.to_yaml()) == spec
        built = Pipeline.build(name, 8, retention=0.3)
        assert built.retention == pytest.approx(0.3)
        assert type(spec).from_yaml(built.to_yaml()) == built.spec
    assert len(Pipeline.build("tome-cache", 8, retention=0.2).on_cache.rounds) == 3


def test_counting():
    """576 tokens, 45 % away: prefill as before, decoding attends to less."""
    shape = DecoderShape(4, 64, 4, 4, 16, 128, 100)
    layout = prompt_layout([ViewSize((1, 24, 24))], 30)
    stage = [{"site": "cache", "ratio": 0.45}]
    saved = count_savings(Pipeline.build("imgrand", 4, schedule=stage), shape, layout, 10)
    assert saved.compressed.vision_tokens == (316,) * 4
    assert saved.compressed.prefill_flops == saved.vanilla.prefill_flops
    assert saved.compressed.decode_flops < saved.vanilla.decode_flops
    whole = [{**stage[0], "scope": "all"}]
    saved = count_savings(Pipeline.build("rand", 4, schedule=whole), shape, layout, 10)
    assert saved.compressed.kv_bytes == shape.kv_bytes([int(606 * 0.55) + 9] * 4)
    assert saved.retention == pytest.approx(0.55, abs=0.002)
