"""The attention row of the layer behind a stage: what that layer would really compute."""

from dataclasses import replace

import pytest
import torch
from test_cohere2_vision import TestCohere2Vision as Cohere2Suite
from test_fuyu import TestFuyu as FuyuSuite
from test_gemma3 import TestGemma3 as Gemma3Suite
from test_gemma4 import Large as Gemma4Suite
from test_glm4v import TestImages as Glm4vSuite
from test_llava import TestLlava as LlavaSuite
from test_qwen3_vl import TestQwen3VL as Qwen3Suite
from test_qwen_vl import TestQwen25VL as QwenSuite

from lightkv.core.contracts import AttentionScorer
from lightkv.core.errors import ModelError
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.run.engine import Engine
from lightkv.core.run.session import Session, find_adapter
from lightkv.testing import Prompt

SUITES = [LlavaSuite, QwenSuite, Gemma3Suite, Glm4vSuite, Qwen3Suite, Gemma4Suite, Cohere2Suite]
PROMPTS = (Prompt(2, 1, 3, seed=1), Prompt(5, 2, 6, seed=2))


class EntryNorm(AttentionScorer):
    """Reads what enters the decoder at the beginning, and gives it back at the stage."""

    name = "entry-norm"
    requires = frozenset({Need.EMBEDDINGS, Need.LAST_ROW})

    def read_embeddings(self, inputs):
        ROWS.append(inputs)
        return inputs.hidden_states.norm(dim=-1)

    def read_attention(self, attention):
        return attention.from_embeddings


class NextLastToken(AttentionScorer):
    name = "next-last-token"
    requires = frozenset({Need.NEXT_LAST_ROW})

    def read_attention(self, attention):
        ROWS.append(attention.last_row())
        return ROWS[-1].mean(dim=1)


ROWS = []


def session_of(model, stages, suite, positions="keep", scorer=NextLastToken):
    """A session whose stages, (after_layer, ratio), rank by the layer behind them."""
    entries = [{"after_layer": after, "ratio": ratio} for after, ratio in stages]
    layers = len(suite.decoder(model).layers)
    spec = Pipeline.build("random", layers, schedule=entries, positions=positions)
    made = tuple(
        PlacedStage(placed.number, placed.spec, (replace(placed.stage, scorer=scorer()),))
        for placed in spec.stages
    )
    pipeline = replace(spec, stages=made)
    adapter = suite.options(model, PROMPTS).get("adapter") or find_adapter(model)
    if isinstance(adapter, str):
        adapter = find_adapter(model, adapter)
    engine = Engine(pipeline, adapter.shape(model.config))
    return Session(model, pipeline, adapter, engine, None)


def full_row(model, inputs, layer, **changes):
    """`[B, H, N]` the last row of a layer of the eager model."""
    with torch.no_grad():
        out = model(**inputs, output_attentions=True, **changes)
    return out.attentions[layer][:, :, -1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_it_is_the_row_of_the_next_layer(suite, layer, attention):
    suite = suite()
    if layer < suite.first_layer:
        pytest.skip("the family needs its first layers whole")
    model = suite.make_model(attention)
    inputs = suite.make_inputs(model, PROMPTS)
    wanted = full_row(suite.make_model("eager"), inputs, layer)
    ROWS.clear()
    session = session_of(model, [(layer, 0.5)], suite).attach()
    with torch.no_grad():
        model(**inputs)
    session.detach()
    valid = inputs["attention_mask"].bool()[:, None].expand_as(wanted)
    torch.testing.assert_close(ROWS[0][valid], wanted[valid], atol=1e-5, rtol=0)
    assert session.last.retention < 1.0


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("positions", ["keep", "renumber-contiguous"])
def test_a_later_stage_sees_what_the_first_one_left(suite, positions):
    """A stage of ratio 0.01 removes one token of the row that the compressed layer then computes."""
    suite = suite()
    model = suite.make_model("eager")
    inputs = suite.make_inputs(model, PROMPTS[:1])
    first = max(2, suite.first_layer)
    ROWS.clear()
    session = session_of(model, [(first, 0.5), (5, 0.5)], suite, positions).attach()
    with torch.no_grad():
        model(**inputs)
    session.detach()
    # The same first stage alone: its layer 5 computes the row itself.
    seen = []

    def keep(module, args, output):
        seen.append(output[1][:, :, -1])

    alone = session_of(model, [(first, 0.5)], suite, positions).attach()
    handle = suite.decoder(model).layers[5].self_attn.register_forward_hook(keep)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    alone.detach()
    torch.testing.assert_close(ROWS[1], seen[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("suite", [LlavaSuite, Gemma3Suite])
def test_cached_keys_are_attended_too(suite):
    suite = suite()
    model = suite.make_model("eager")
    turns = [suite.make_inputs(model, [prompt]) for prompt in (PROMPTS[0], Prompt(3, 1, 4, seed=5))]
    ids = torch.cat([turn["input_ids"] for turn in turns], dim=1)
    later = {**turns[1], "input_ids": turns[1]["input_ids"], "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        cache = model(**turns[0]).past_key_values
        wanted = full_row(model, later, 3, past_key_values=cache)
        cache = model(**turns[0]).past_key_values
    ROWS.clear()
    session = session_of(model, [(3, 0.5)], suite).attach()
    with torch.no_grad():
        model(**later, past_key_values=cache)
    session.detach()
    length = ROWS[0].shape[-1]
    torch.testing.assert_close(ROWS[0], wanted[..., -length:], atol=1e-5, rtol=0)


def test_scorers_are_shown_what_enters_the_decoder():
    suite = LlavaSuite()
    model = suite.make_model()
    inputs = suite.make_inputs(model, PROMPTS)
    with torch.no_grad():
        entry = model(**inputs, output_hidden_states=True).hidden_states[0]
    ROWS.clear()
    session = session_of(model, [(2, 0.5)], suite, scorer=EntryNorm).attach()
    with torch.no_grad():
        model(**inputs)
    session.detach()
    assert len(ROWS) == 1
    assert torch.equal(ROWS[0].hidden_states, entry)
    assert torch.equal(ROWS[0].vision, inputs["input_ids"] == 5)
    assert session.last.retention < 1.0


def test_packed_projections_are_refused_at_once():
    suite = FuyuSuite()
    model = suite.make_model()
    with pytest.raises(ModelError, match="q_proj"):
        session_of(model, [(2, 0.5)], suite).attach()
