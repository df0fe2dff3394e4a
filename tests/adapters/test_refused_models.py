"""Models of transformers that a session cannot serve, refused by name when it begins."""

import copy

import pytest
import torch
import transformers
from test_gemma3 import TestGemma3 as Gemma3Suite
from test_generic import ONE
from tiny import TEXT, tiny_llama, tiny_llava
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import lightkv
from lightkv.core.errors import ModelError
from lightkv.testing.oracles import snapshot

HALF = [{"after_layer": 2, "ratio": 0.5}]
IDS = torch.tensor([[7, *[5] * 36, 8, 9]])
PIXELS = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def refused(model, **options):
    before = snapshot(model)
    with (
        pytest.raises(ModelError, match=type(model).__name__) as error,
        lightkv.compress(model, "fastv", schedule=HALF, **options),
    ):
        pass
    assert error.value.field == "model"
    assert "generate" in error.value.remedy
    assert snapshot(model) == before


# -- heads ----------------------------------------------------------------------------------------


def test_a_family_with_a_head_that_classifies():
    config = copy.deepcopy(Gemma3Suite().make_model().config)
    config.num_labels = 3
    refused(transformers.Gemma3ForSequenceClassification(config))


@pytest.mark.parametrize(
    "head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
)
def test_the_generic_adapter_with_another_head(head):
    model = getattr(transformers, f"Llama{head}")(LlamaConfig(**TEXT))
    refused(model, adapter="generic", layout=ONE)


def test_a_retriever_over_a_whole_model():
    """It multiplies what it embeds by the mask of the uncompressed prompt."""
    inner = tiny_llava().config
    config = transformers.ColPaliConfig(vlm_config=inner, embedding_dim=8)
    refused(transformers.ColPaliForRetrieval(config), adapter="generic", layout=ONE)


def test_a_model_without_a_head_is_sent_to_its_decoder():
    model = tiny_llava().model
    refused(model, adapter="generic", layout=ONE)
    decoder = model.get_decoder()
    with lightkv.compress(decoder, "fastv", adapter="generic", layout=ONE, schedule=HALF) as run:
        states = model(input_ids=torch.full((1, 30), 9)).last_hidden_state
    assert run.last.samples[0].original == 16
    assert states.shape[1] == 22


# -- attention implementations --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flex_attention", "paged|eager", "mine"])
@pytest.mark.parametrize("when", ["before", "inside"])
def test_masks_in_another_form_are_refused(name, when):
    AttentionInterface.register("mine", sdpa_attention_forward)
    model = tiny_llama()
    embeddings = torch.randn(1, 30, 64)
    if when == "before":
        model.config._attn_implementation = name
    with (  # noqa: PT012
        pytest.raises(ModelError, match="masks") as error,
        lightkv.compress(model, "fastv", adapter="generic", layout=ONE, schedule=HALF) as run,
    ):
        assert when == "inside", "it should not have begun"
        model(inputs_embeds=embeddings)
        model.config._attn_implementation = name
        model(inputs_embeds=embeddings)
    assert error.value.field == "attn_implementation"
    assert error.value.value == name
    assert "sdpa" in error.value.remedy
    if when == "inside":
        assert len(run.reports) == 1


def test_a_function_of_the_callers_own_with_masks_that_are_known():
    """It is the model's attention, also where a stage looks in."""
    calls = []

    def mine(module, *args, **kwargs):
        calls.append(module.layer_idx)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("lightkv_test_mine", mine)
    AttentionMaskInterface.register("lightkv_test_mine", sdpa_mask)
    inputs = {"input_ids": IDS, "pixel_values": PIXELS, "attention_mask": torch.ones_like(IDS)}
    found = []
    for name in ("sdpa", "lightkv_test_mine"):
        model = tiny_llava()
        model.set_attn_implementation({"text_config": name})
        with lightkv.compress(model, "fastv", schedule=HALF):
            out = model.generate(
                **inputs, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
            )
        found.append(torch.stack(out.logits))
    assert torch.equal(*found)
    assert calls == list(range(6)) * 4
