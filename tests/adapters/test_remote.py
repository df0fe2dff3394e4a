"""What the adapter of remote code rests on: the tap, rotary tables, caches that are tuples."""

import gc
from dataclasses import replace

import pytest
import torch
from standins.legacy import LegacyRotary
from test_internvl_chat import TestInternVLChat as InternVLChatSuite
from test_pass_lock import result_of, started

from lightkv.adapters.families.internvl_chat import InternVLChatAdapter
from lightkv.adapters.remote.projection_tap import ProjectionTap, tables_at
from lightkv.adapters.remote.tuple_cache import Lineage, returned_past
from lightkv.core.errors import ModelError, SessionError
from lightkv.testing.adapters import Prompt
from lightkv.testing.contract import Boom

FAMILIES = [(InternVLChatAdapter, InternVLChatSuite)]
remote = pytest.mark.parametrize(("adapter", "suite"), [(a(), s()) for a, s in FAMILIES])
del InternVLChatSuite  # or it would be collected here too


@remote
@pytest.mark.parametrize("turn", ["first", "second"])
def test_the_tap_sees_what_attention_computes(adapter, suite, turn):
    """Query and key that it shows give the attention weights that the layer returns."""
    model = suite.make_model()
    decoder = adapter.decoder(model)
    past, length = None, 20
    if turn == "second":
        past = decoder(inputs_embeds=torch.randn(2, 7, 64), use_cache=True).past_key_values
    attention = adapter.attention(decoder.layers[2])
    tap = ProjectionTap(attention, adapter.projections(attention), adapter.query_key)
    seen = []
    tap.install()
    tap.open(lambda *call: seen.append(call))
    out = decoder(
        inputs_embeds=torch.randn(2, length, 64), past_key_values=past, output_attentions=True
    )
    tap.remove()
    [(query, key, scaling, extra)] = seen
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    weights = (query @ key.transpose(2, 3) * scaling + extra["attention_mask"]).softmax(-1)
    torch.testing.assert_close(weights, out.attentions[2], atol=1e-6, rtol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@remote
@pytest.mark.parametrize("normalize", ["queries", "keys", None])
def test_guidance_reads_the_attention_of_the_layer(adapter, suite, normalize):
    """Importances of the first stage, recomputed from a full matrix of logits."""
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch[:1])
    attention = adapter.attention(adapter.decoder(model).layers[1])
    tap = ProjectionTap(attention, adapter.projections(attention), adapter.query_key)
    seen = []
    tap.install()
    tap.open(lambda *call: seen.append(call))
    suite.call(model, inputs)
    tap.remove()
    [(query, key, scaling, extra)] = seen
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * scaling
    vision = suite.vision_mask(model, inputs, suite.batch[:1])[0]
    if normalize is None:
        scorer = {"name": "last-token"}
        wanted = (logits + extra["attention_mask"]).softmax(-1)[0, :, -1].mean(0)
    else:
        scorer = {"name": "prompt-attention", "normalize": normalize}
        shares = logits.softmax(-2 if normalize == "queries" else -1)
        wanted = shares[0, :, :, ~vision].sum((0, 2))
    with suite.session(model, (), scorer=scorer, trace=True) as session:
        suite.call(model, inputs)
    found = session.last.scores[0].flatten()
    found = found[vision] if found.numel() > int(vision.sum()) else found
    torch.testing.assert_close(found, wanted[vision], atol=1e-5, rtol=1e-4)


def test_tables_between_the_rows():
    rotary = LegacyRotary(16, 512)
    tables = rotary(torch.zeros(1), seq_len=512)
    positions = torch.tensor([[0.0, 3.25, 400.5], [7.0, 511.0, 99.9]])
    cos, sin = tables_at(tables, positions)
    assert cos.shape == (6, 16)
    frequencies = 10000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    angles = positions.double().reshape(-1, 1) * torch.cat([frequencies, frequencies])
    torch.testing.assert_close(cos.reshape(6, 16).double(), angles.cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(sin.reshape(6, 16).double(), angles.sin(), atol=1e-4, rtol=0)


def test_whole_positions_take_rows_as_they_are():
    tables = LegacyRotary(16, 64)(torch.zeros(1), seq_len=64)
    positions = torch.tensor([[5, 9, 63]])
    for given in (positions, positions.double()):
        for table, rows in zip(tables, tables_at(tables, given), strict=True):
            assert torch.equal(rows, table[positions[0]])


def test_what_is_known_of_a_cache_dies_with_it():
    lineage = Lineage()

    def cache(*lengths, told=1):
        return tuple((torch.full((1, 1, n, 2), told), torch.zeros(1, 1, n, 2)) for n in lengths)

    kept, dropped = cache(5, 3), cache(6, 6)
    made = lineage.keep(kept, 5)
    lineage.keep(dropped, 6)
    assert lineage.find(kept) is made
    assert lineage.find(dropped).fed == 6
    assert lineage.find(None) is None
    assert lineage.find(cache(6, 6, told=2)) is None
    del dropped
    gc.collect()
    assert len(lineage._made) == 1
    lineage.keep(kept, 5)
    assert lineage.find(cache(5, 3)).fed == 5
    assert lineage.find(cache(5, 4)) is None


@remote
def test_gradient_checkpointing_is_refused(adapter, suite):
    """Such code calls layers again, hooks included, when gradients are computed."""
    model = suite.make_model().train()
    adapter.decoder(model).gradient_checkpointing = True
    inputs = suite.make_inputs(model, suite.pair[:1])
    with suite.session(model, suite.pair[:1]), pytest.raises(ModelError, match="calls layers"):
        suite.call(model, inputs)


def permuted(past, rows):
    return tuple(tuple(tensor[rows] for tensor in pair) for pair in past)


@pytest.mark.parametrize("schedule", [2, 0])
@remote
def test_rows_of_a_tuple_cache_that_changed_places_are_refused(adapter, suite, schedule):
    """Rows of one prompt may (beams do); rows of different prompts may not, also where layer 0 is
    compressed and all layers are equally long."""
    model = suite.make_model()
    # They end in the same token, as prompts of one template do: the last keys of layer 0 are equal.
    prompts = tuple(replace(suite.pair[0], seed=seed) for seed in (1, 2))
    inputs = suite.make_inputs(model, prompts)
    inputs["input_ids"][:, -1] = 9
    stages = [{"after_layer": schedule, "ratio": 0.5}]
    with suite.session(model, prompts, "fastv" if schedule else "random", schedule=stages):
        past = suite.call(model, inputs, use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[20], [20]])}
        suite.call(model, step, past_key_values=permuted(past, [0, 1]))
        past = suite.call(model, inputs, use_cache=True).past_key_values
        with pytest.raises(SessionError, match="changed places") as error:
            suite.call(model, step, past_key_values=permuted(past, [1, 0]))
        assert error.value.remedy


def test_the_cache_is_found_in_outputs_without_names():
    states = torch.zeros(1, 4, 8)
    past = tuple((torch.zeros(1, 1, n, 2), torch.zeros(1, 1, n, 2)) for n in (4, 3))
    assert returned_past((states, past), 2) is past
    assert returned_past((states, (states, states)), 2) is None
    assert returned_past((states,), 2) is None


@remote
def test_profiles_every_role(adapter, suite):
    model = suite.make_model()
    with suite.session(model, suite.batch, profile=True) as session:
        suite.generate(model, suite.make_inputs(model, suite.batch))
    report = session.last
    assert set(report.role_times) == {"scoring", "matching", "aggregation"}
    assert report.time_to_first_token > sum(report.role_times.values()) > 0
    assert report.decode_steps == suite.steps - 1
    assert report.time_per_token > 0


@remote
def test_without_a_cache_the_result_is_the_same(adapter, suite):
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch)
    with suite.session(model, suite.batch) as session, torch.no_grad():
        without = suite.call(model, inputs, use_cache=False)
        cached = suite.call(model, inputs, use_cache=True)
    assert torch.equal(without.logits, cached.logits)
    assert without.past_key_values is None
    assert [report.cache_bytes is None for report in session.reports] == [True, False]


def head_of(model):
    return getattr(model, "lm_head", None) or model.language_model.output


@remote
@pytest.mark.parametrize("stage", [0, 2])
def test_decoding_without_masks_and_positions_of_the_caller(adapter, suite, stage):
    """The decoder then counts the entries of layer 0, which may be short."""
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch[:1])
    inputs["attention_mask"] = None
    tokens = torch.randint(20, 200, (1, 2))
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], dim=1)}
    schedule = [{"after_layer": stage, "ratio": 0.5, "windows": None}]
    with suite.session(model, (), "random", schedule=schedule), torch.no_grad():
        wanted = suite.call(model, whole, use_cache=False).logits[:, -2:]
    with suite.session(model, (), "random", schedule=schedule), torch.no_grad():
        out = suite.call(model, inputs, use_cache=True)
        found = []
        for step in range(2):
            out = adapter.decoder(model)(
                input_ids=tokens[:, step : step + 1], past_key_values=out.past_key_values
            )
            found.append(head_of(model)(out.last_hidden_state))
    torch.testing.assert_close(torch.cat(found, dim=1), wanted, atol=suite.exact, rtol=0)


@remote
def test_a_second_image_in_a_later_turn_is_compressed_as_in_one_pass(adapter, suite):
    """Windows never span images, so without guidance one pass merges what two turns merge."""
    model = suite.make_model()
    turns = [suite.make_inputs(model, [Prompt(3, 1, 4, seed=seed)]) for seed in (1, 2)]
    for turn in turns:
        turn["attention_mask"] = None
    pixels = "images" if "images" in turns[0] else "pixel_values"
    whole = {
        "input_ids": torch.cat([turn["input_ids"] for turn in turns], dim=1),
        pixels: torch.cat([turn[pixels] for turn in turns]),
        "attention_mask": None,
    }
    options = {"scorer": "uniform"}
    with suite.session(model, (), **options) as session, torch.no_grad():
        wanted = suite.call(model, whole).logits[:, -4:]
        first = suite.call(model, turns[0], use_cache=True)
        second = suite.call(model, turns[1], use_cache=True, past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits[:, -4:], wanted, atol=suite.exact, rtol=0)
    together, one, two = (report.samples[0].vision_tokens for report in session.reports)
    assert together == tuple(a + b for a, b in zip(one, two, strict=True))
    assert two[-1] < two[0]
    lengths = [key.shape[2] for key, _ in suite.cached(second.past_key_values)]
    assert lengths[0] - lengths[-1] == together[0] - together[-1]


@remote
@pytest.mark.parametrize("where", ["generate", "forward"])
def test_a_failed_call_leaves_nothing_behind(adapter, suite, where):
    """Ids of a call that failed before its decoder are not taken for those of the next."""
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch[:1])
    embeddings = torch.randn(1, 9, 64)

    def fail(*_):
        raise Boom

    [tower] = adapter.vision_modules(model)
    with suite.session(model, suite.batch[:1]):
        handle = tower.register_forward_hook(fail)
        with pytest.raises(Boom):
            suite.generate(model, inputs) if where == "generate" else suite.call(model, inputs)
        handle.remove()
        with pytest.raises(ModelError, match="embeddings reached"):
            adapter.decoder(model)(inputs_embeds=embeddings)
        suite.generate(model, inputs)


@remote
def test_generations_of_several_threads_take_turns(adapter, suite):
    """A pass waits for another thread's pass; a call between two passes harms neither.

    Ids that `generate` has seen wait for the decoder pass of their own thread.
    """
    model = suite.make_model()
    prompts = suite.batch[:2]
    mine, other = (suite.make_inputs(model, [prompt]) for prompt in prompts)
    [tower] = adapter.vision_modules(model)
    others = []

    def meanwhile(*_):
        handle.remove()
        others.append(started(lambda: torch.stack(suite.generate(model, other).logits)))
        others[-1][0].join(timeout=0.2)

    with suite.session(model, prompts[:1]):
        wanted = [torch.stack(suite.generate(model, given).logits) for given in (mine, other)]
        for module in (adapter.decoder(model).layers[3], tower):
            handle = module.register_forward_pre_hook(meanwhile)
            found = torch.stack(suite.generate(model, mine).logits)
            assert torch.equal(found, wanted[0])
            assert torch.equal(result_of(others.pop()), wanted[1])
