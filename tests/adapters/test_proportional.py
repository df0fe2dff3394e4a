"""Proportional attention: a merged token that knows its size weighs as much as those it holds."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lightkv
from lightkv import VisionLayout
from lightkv.core.errors import ModelError
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec

COUNT, TEXT = 8, 5
LAYOUT = VisionLayout.from_spans([[(0, (1, 1, COUNT))]])
BETWEEN = [{"after_layer": 1, "ratio": 0.5}, {"after_layer": 2, "ratio": 0.25}]
CACHE = [{"site": "cache", "ratio": 0.7}]
both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def make_model(attention="sdpa"):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def run(model, steps=3):
    """Logits of a prefill and of decode steps; the image's tokens are alike in all but their place.

    The image stands first and every token of it at the same position, so each of them sees only
    copies of itself: they stay alike in all layers.
    """
    torch.manual_seed(0)
    image, text = torch.randn(1, 1, 32), torch.randn(1, TEXT, 32)
    embeddings = torch.cat([image.expand(1, COUNT, -1), text], dim=1)
    positions = torch.cat([torch.zeros(COUNT), torch.arange(1, TEXT + 1)]).long()[None]
    with torch.no_grad():
        out = model(inputs_embeds=embeddings, position_ids=positions, use_cache=True)
        logits = [out.logits[:, -TEXT:]]
        for step in range(steps):
            out = model(
                input_ids=torch.tensor([[7 + step]]),
                position_ids=torch.tensor([[TEXT + 1 + step]]),
                past_key_values=out.past_key_values,
            )
            logits.append(out.logits)
    return torch.cat(logits, dim=1)


def session(model, schedule, **changes):
    preset = "tome" if schedule is not CACHE else "tome-cache"
    options = {"adapter": "generic", "layout": LAYOUT, "schedule": schedule, **changes}
    return lightkv.compress(model, preset, **options)


@both_attentions
@pytest.mark.parametrize("schedule", [BETWEEN, CACHE, [*BETWEEN, *CACHE]])
def test_merged_copies_weigh_what_they_held(attention, schedule):
    model = make_model(attention)
    wanted = run(model)
    with session(model, schedule, proportional=True) as kept:
        found = run(model)
    assert kept.last.retention < 1
    with session(model, schedule):
        light = run(model)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (light - wanted).abs().max() > 1e-3, "sizes made no difference"


@both_attentions
def test_nothing_merged_changes_nothing(attention):
    model = make_model(attention)
    wanted = run(model)
    with session(model, [*BETWEEN, *CACHE], matcher="keep-all", proportional=True):
        assert torch.equal(run(model), wanted)


def test_scores_read_attention_with_sizes():
    """The last row of a later stage sums to 1 over what the layer's attention really weighs."""
    model = make_model()
    stages = [BETWEEN[0], {"after_layer": 3, "ratio": 0.25, "overrides": LAST}]
    with session(model, stages, proportional=True, trace=True) as kept:
        run(model)
    sizes = kept.last.trace[0].group_sizes()
    score = kept.last.scores[1]
    # All are copies, so each one's attention is in proportion to the tokens that it holds.
    torch.testing.assert_close(score / score.sum(), sizes / sizes.sum(), atol=1e-5, rtol=0)


LAST = {"scorer": "last-token", "matcher": "top-k", "aggregator": "drop"}


def test_yaml_holds_it():
    spec = resolve_spec("tome").updated(proportional=True)
    assert "proportional: true" in spec.to_yaml()
    assert PipelineSpec.from_yaml(spec.to_yaml()) == spec
    assert "proportional" not in resolve_spec("tome").to_yaml()


def test_attention_without_additive_masks_is_refused():
    model = make_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with (
        pytest.raises(ModelError, match="no additive mask"),
        session(model, BETWEEN, proportional=True),
    ):
        pass
