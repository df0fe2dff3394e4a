"""The generic adapter on text decoders with recurrent layers: embeddings and spans, the second law."""

import pytest
import torch
from hybrids import LINEAR, Hybrid
from test_generic import TestGeneric as GenericSuite
from tiny import TEXT
from transformers import Lfm2Config, Lfm2ForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from lightkv.testing.serving import TEXT as TURN


class OnQwen35(Hybrid, GenericSuite):
    """Its rotary tables have three axes, and nobody gives it positions."""

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        config = Qwen3_5TextConfig(**LINEAR, attn_implementation=attn_implementation)
        torch.manual_seed(0)
        return Qwen3_5ForCausalLM(config).to(dtype).eval()


class OnLfm2(Hybrid, GenericSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        kinds = ["conv", "full_attention"] * 3
        sizes = {**TEXT, "layer_types": kinds, "block_multiple_of": 8}
        config = Lfm2Config(
            **sizes,
            conv_L_cache=3,
            initializer_range=0.04,
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return Lfm2ForCausalLM(config).to(dtype).eval()


@pytest.mark.parametrize("suite", [OnQwen35, OnLfm2])
def test_the_law(suite):
    suite = suite()
    suite.test_drop_equals_mask("sdpa", "fastv", None)
    suite.test_drop_equals_mask("eager", "random", None)


@pytest.mark.parametrize("suite", [OnQwen35, OnLfm2])
def test_batches_turns_and_bytes(suite):
    suite = suite()
    model = suite.make_model()
    suite.batch_and_alone(model, "lightkv")
    found, wanted, _ = suite.converse(model, suite.pair, TURN, "random", eager=False)
    suite.check_close(found, wanted)
    suite.test_cache_truth(torch.bfloat16, None)


def test_hand_written_decoding_goes_on_where_the_first_attention_counts():
    """With a stage behind layer 1, the first with entries, positions may be left to the model."""
    suite = OnLfm2()
    model, prompts = suite.make_model(), suite.batch[:1]
    inputs = suite.make_inputs(model, prompts)
    schedule = [{"after_layer": 2, "ratio": 0.5}]
    found = []
    with suite.session(model, prompts, "fastv", schedule=schedule), torch.no_grad():
        wanted = suite.generate(model, inputs)
        out = model(**inputs, use_cache=True)
        for _ in range(suite.steps - 1):
            found.append(out.logits[:, -1])
            token = found[-1].argmax(-1, keepdim=True)
            out = model(input_ids=token, past_key_values=out.past_key_values)
    suite.check_close(torch.stack(found), torch.stack(wanted.logits[:-1]))
