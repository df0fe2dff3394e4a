"""The contract of Qwen3.5: linear and full attention, under the law of the shorter sequence."""

import copy
import sys

import pytest
import torch
from hybrids import Qwen35, check_laws, tiny_qwen3_5
from rows import (
    IMAGE,
    VIDEO,
    check_truth,
    stamped_frames,
)
from test_next_layer import ROWS, full_row, session_of
from transformers.cache_utils import LinearAttentionLayer

import lightkv
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.hf import contact
from lightkv.core.errors import CompatibilityError, ConfigError, ModelError, SessionError
from lightkv.core.plugins import registry
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import encoder_needs
from lightkv.testing.truth import points

ONE = (Prompt(2, 1, 3, seed=1),)


class TestQwen35(Qwen35, AdapterSuite):
    pass


# -- the law ----------------------------------------------------------------------------------------


def test_a_prefill_is_the_plain_layers_on_the_tokens_that_are_left():
    """The same numbers: nothing but the choice of tokens differs."""
    suite = Qwen35()
    model = suite.make_model()
    for prompt in suite.batch[:2]:
        out, positions, session = suite.traced(model, [prompt], "random")
        tokens = suite.new_tokens(out)[:, :1]
        wanted = suite.masked_logits(model, [prompt], tokens, positions, session, eager=False)
        torch.testing.assert_close(out.logits[0], wanted[:, 0], atol=1e-6, rtol=0)


def test_masks_on_the_layers_of_attention_are_another_thing():
    suite = Qwen35()
    model = suite.make_model()
    found, wanted = suite.drop_and_mask(model, ONE, "random", eager=False)
    suite.law = "masked"
    masked = suite.drop_and_mask(model, ONE, "random", eager=False)[1]
    assert (found - wanted).abs().max() < 1e-5
    assert (found - masked).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_laws_are_the_same_where_all_layers_are_attention(attention):
    suite = Qwen35()
    suite.recurrent = ()
    model = tiny_qwen3_5(attention, layer_types=["full_attention"] * 6)
    eager = attention == "eager"
    for suite.law in ("shorter", "masked"):
        found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=eager)
        suite.check_close(found, wanted)


# -- clips ------------------------------------------------------------------------------------------


class Clips(Qwen35):
    """Clips of three temporal patches in place of images."""

    grids, token, block = [(3, 8, 8)], VIDEO, staticmethod(stamped_frames)


def test_clips_obey_the_law():
    check_laws(Clips())


@pytest.mark.parametrize("later", [Prompt(3, 1, 4, seed=7), Prompt(3, 0, 4, seed=7)])
def test_later_turns_after_clips(later):
    suite = Clips()
    if later.images:
        suite.need("later image")
    found, wanted, _ = suite.converse(suite.make_model(), suite.pair, later, "random", eager=False)
    suite.check_close(found, wanted)


# -- the layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [Qwen35, Clips])
def test_the_painted_patch_moves_the_token_of_its_cell(suite):
    suite = suite()
    model, grid = suite.make_model(), suite.grids[1 % len(suite.grids)]
    inputs = suite.make_inputs(model, ONE)
    name = "pixel_values" if suite.token == IMAGE else "pixel_values_videos"
    rows, columns = grid[1] // 2, grid[2] // 2
    for frame in {0, grid[0] - 1}:
        for y, x in points(rows, columns):
            cell = (frame * rows + int(y * rows)) * columns + int(x * columns)
            painted = inputs[name].clone()
            painted[4 * cell : 4 * cell + 4] += 3
            given = {**inputs, name: painted}
            check_truth(QwenVLAdapter(), model, inputs, given, {0: (frame, y, x)})


# -- what a stage may read ----------------------------------------------------------------------------


def test_attention_of_recurrent_layers_is_not_read():
    suite = Qwen35()
    model = suite.make_model()
    for pipeline, place in (("fastv", 3), ("pyramiddrop", 4)):
        run = suite.session(model, ONE, pipeline, schedule=[{"after_layer": place, "ratio": 0.5}])
        with pytest.raises(ConfigError, match="is recurrent") as error:
            run.__enter__()
        assert error.value.value == place
        assert "the nearest is" in str(error.value.remedy)
    with suite.session(model, ONE, "random", schedule=[{"after_layer": 3, "ratio": 0.5}]) as run:
        suite.generate(model, suite.make_inputs(model, ONE))
    assert run.last.retention < 1


@pytest.mark.parametrize("retention", [0.4, 0.55, 0.7])
def test_solved_schedules_stand_where_attention_can_be_read(retention):
    model = tiny_qwen3_5(num_hidden_layers=24, layer_types=None)
    with lightkv.compress(model, "lightkv", adapter=QwenVLAdapter(), retention=retention) as run:
        places = run.pipeline.schedule.after_layers
    assert all(place % 4 == 0 for place in places)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_row_of_the_next_layer(attention):
    """`q_proj` gives each head's query and its gate; the query alone is rotated and scored."""
    suite, prompts = Qwen35(), MIXED[:2]
    model = suite.make_model(attention)
    inputs = suite.make_inputs(model, prompts)
    wanted = full_row(suite.make_model("eager"), inputs, 1)  # of the layers with attention
    ROWS.clear()
    session = session_of(model, [(3, 0.5)], suite).attach()
    with torch.no_grad():
        model(**inputs)
    session.detach()
    valid = inputs["attention_mask"].bool()[:, None].expand_as(wanted)
    torch.testing.assert_close(ROWS[0][valid], wanted[valid], atol=1e-5, rtol=0)


def test_gates_of_unknown_attention_are_refused(monkeypatch):
    monkeypatch.setattr("lightkv.adapters.hf.next_layer.GATED_QUERIES", ())
    suite = Qwen35()
    schedule = [{"after_layer": 3, "ratio": 0.5}]
    with pytest.raises(ModelError, match="next_last_row"):
        suite.session(suite.make_model(), ONE, "pyramiddrop", schedule=schedule).__enter__()


# -- caches -----------------------------------------------------------------------------------------


def test_states_are_reported_and_do_not_shrink():
    suite = Qwen35()
    model = suite.make_model()
    inputs = suite.make_inputs(model, ONE)
    held = []
    for ratio in (0.0, 0.5):
        schedule = [{"after_layer": 2, "ratio": ratio}]
        with suite.session(model, ONE, "random", schedule=schedule) as run:
            suite.generate(model, inputs)
        held.append(run.last.cache_bytes)
        assert {run.last.samples[0].kv_bytes[layer] for layer in suite.recurrent} == {0}
    for layer in range(6):
        if layer in suite.recurrent:
            # Four numbers for each channel of the convolution, and a matrix for each head.
            assert held[0][layer] == held[1][layer] == 4 * ((2 * 16 + 32) * 4 + 4 * 8 * 8)
        else:
            assert (held[0][layer] > held[1][layer]) == (layer > 2)


def test_states_are_guarded_too():
    """Layer 0 is recurrent: a pass outside the session would change it before attention refuses."""
    suite = TestQwen35()
    model = suite.make_model()
    with suite.session(model, ONE) as run:
        first = suite.generate(model, suite.make_inputs(model, ONE))
        cache = first.past_key_values
        states = [copy.deepcopy(suite.cached(cache)[layer]) for layer in suite.recurrent]
        run.detach()
        with pytest.raises(SessionError, match="was compressed"):
            suite._step(model, cache)
        for layer, state in zip(suite.recurrent, states, strict=True):
            assert all(map(torch.equal, suite.cached(cache)[layer], state))


@pytest.mark.parametrize("place", [0, 1])
def test_a_stage_before_the_first_attention_needs_positions(place):
    """transformers counts by layer 1, which is the first with entries."""
    suite = TestQwen35()
    model = suite.make_model()
    schedule = [{"after_layer": place, "ratio": 0.5}]
    with suite.session(model, ONE, "random", schedule=schedule), torch.no_grad():
        out = suite.generate(model, suite.make_inputs(model, ONE))
        cache = out.past_key_values
        with pytest.raises(SessionError, match="layer 1 is compressed") as error:
            model(input_ids=torch.tensor([[20]]), past_key_values=cache)
        assert error.value.field == "position_ids"
        assert "after_layer >= 2" in error.value.remedy
        with pytest.raises(SessionError, match="layer 1 is compressed") as error:
            suite.generate(model, suite._next_turn(model, out, ONE), past_key_values=cache)
        assert error.value.value == 1


def test_later_images_that_leave_rows_unequal_are_refused():
    suite = Qwen35()
    suite.need("later image")
    model, turns = suite.make_model(), ([Prompt(2, 1, 3, seed=1)] * 2, [Prompt(2, 1, 3, 1)] * 2)
    # Of 24 tokens and of 32: the text is as much shorter.
    turns[1][1] = Prompt(2, 1, 3, seed=2)
    turns[1][0] = Prompt(2, 1, 11, seed=1)
    first, more = (suite.make_inputs(model, turn) for turn in turns)
    with suite.session(model, turns[0], "random"):
        out = suite.generate(model, first)
        whole = suite.joined(suite.extended(model, first, suite.answer(first, out)), more)
        call = suite.later_call(model, whole, more)
        with pytest.raises(SessionError, match="their states would fade") as error:
            suite.generate(model, call, past_key_values=out.past_key_values)
    assert "one row" in error.value.remedy


@pytest.mark.parametrize("name", ["conv_states", "recurrent_states"])
def test_states_under_another_name_are_refused(name, monkeypatch):
    own = LinearAttentionLayer.__getattribute__

    def looked(self, asked):
        if asked == name and sys._getframe(1).f_globals["__name__"].startswith("lightkv."):
            raise AttributeError(name)
        return own(self, asked)

    monkeypatch.setattr(LinearAttentionLayer, "__getattribute__", looked)
    suite = Qwen35()
    model = suite.make_model()
    with pytest.raises(CompatibilityError) as error, suite.session(model, ONE):
        suite.generate(model, suite.make_inputs(model, ONE))
    assert error.value.field == name
    assert name in {each for names in contact.names_of(contact.CACHE_STATE) for each in names}


# -- other decoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [
        (["hybrid", "full_attention"], "hybrid"),
        (["linear_attention"] * 2, "no layer of this decoder keeps keys"),
    ],
)
def test_kinds_of_layers_that_are_not_known(kinds, problem):
    model = tiny_qwen3_5()
    model.get_decoder().config.layer_types = kinds * 3
    with pytest.raises(ModelError, match=problem) as error:
        lightkv.compress(model, "random", adapter=QwenVLAdapter()).__enter__()
    assert error.value.field == "model.config.layer_types"


# -- presets as they are ------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", sorted(registry().presets))
def test_every_preset_on_a_decoder_of_the_real_pattern(pipeline):
    """Three recurrent layers before each of attention, and the preset's own schedule."""
    suite = Qwen35()
    model = tiny_qwen3_5(num_hidden_layers=24, layer_types=None)
    suite.grids = [(1, 16, 24)]
    session = lightkv.compress(model, pipeline, adapter=QwenVLAdapter(), gap_warning=False)
    problem = None
    if pipeline in ("fastv", "dart", "framefusion"):
        problem = r"layer 1 is recurrent.*the nearest is 4"  # published behind two layers
    elif encoder_needs(pipeline):
        problem = r"vision encoder|projector"
    if problem is not None:
        with pytest.raises((ModelError, ConfigError), match=problem) as error:
            session.__enter__()
        assert error.value.remedy
        return
    with session as run:
        out = suite.generate(model, suite.make_inputs(model, ONE))
    assert bool(torch.isfinite(torch.stack(out.logits)).all())
    assert run.last.retention < 1
