"""The contract of the generic adapter: a text decoder fed with embeddings, spans given by the caller."""

import pytest
import torch
from tiny import tiny_llama
from torch import nn

import lightkv
from lightkv.core.errors import ConfigError, LayoutError, ModelError, SessionError
from lightkv.testing import AdapterSuite

ROWS, COLUMNS = 4, 6
ONE = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))]])


def spans(prompts, width):
    return [
        [
            (width - length(p) + p.before + image * ROWS * COLUMNS, (1, ROWS, COLUMNS))
            for image in range(p.images)
        ]
        for p in prompts
    ]


def length(prompt):
    return prompt.before + prompt.images * ROWS * COLUMNS + prompt.after


def layout_of(prompts):
    width = max(length(p) for p in prompts)
    pads = [width - length(p) for p in prompts]
    return lightkv.VisionLayout.from_spans(spans(prompts, width), pads=pads)


class TestGeneric(AdapterSuite):
    cannot = {
        "later image": "spans describe the first pass of a sequence; what follows is text",
        "assistant": "transformers gives an assistant ids and no embeddings, so it has no prompt",
        "placeholders": "there are none: the caller gives the spans",
        "embeddings": "this family is given embeddings and spans everywhere",
    }

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llama(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        width = max(length(p) for p in prompts)
        embeds = torch.zeros(len(prompts), width, 64, dtype=model.dtype)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(prompt.seed)
            own = 0.02 * torch.randn(length(prompt), 64, generator=generator)
            embeds[row, width - length(prompt) :] = own.to(model.dtype)
            mask[row, width - length(prompt) :] = 1
        return {"inputs_embeds": embeds, "attention_mask": mask}

    def vision_mask(self, model, inputs, prompts):
        length = inputs["inputs_embeds"].shape[1]
        return layout_of(prompts).with_length(length).vision_mask()

    def options(self, model, prompts):
        return {"adapter": "generic", "layout": layout_of(prompts)}

    def extended(self, model, inputs, tokens):
        added = model.get_input_embeddings()(tokens)
        embeds = torch.cat([inputs["inputs_embeds"], added], dim=1)
        return {"inputs_embeds": embeds, "attention_mask": self.longer_mask(inputs, tokens)}


def test_it_must_be_told_the_spans():
    model = tiny_llama()
    with pytest.raises(ConfigError, match="layout=VisionLayout"):
        lightkv.compress(model, "fastv", adapter="generic").__enter__()


def test_a_layout_of_another_length_is_refused():
    model = tiny_llama()
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))]], length=30)
    run = lightkv.compress(model, "fastv", adapter="generic", layout=layout)
    with pytest.raises(LayoutError, match="30 positions"), run:
        model(inputs_embeds=torch.randn(1, 24, 64))


def test_generating_from_ids_without_a_cache_is_refused():
    model, ids = tiny_llama(), torch.full((1, 24), 9)
    run = lightkv.compress(model, "fastv", adapter="generic", layout=ONE)
    with pytest.raises(SessionError, match="use_cache"), run:
        model.generate(ids, use_cache=False, max_new_tokens=2)


def test_a_layout_of_another_batch_is_refused():
    model = tiny_llama()
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))]] * 2)
    run = lightkv.compress(model, "fastv", adapter="generic", layout=layout)
    with pytest.raises(LayoutError, match="2 samples"), run:
        model(inputs_embeds=torch.randn(3, 24, 64))


def test_a_module_without_layers_is_refused():
    with pytest.raises(ModelError, match="writing-an-adapter"):
        lightkv.compress(nn.Linear(2, 2), "fastv", adapter="generic", layout=ONE).__enter__()


@pytest.mark.parametrize("pads", [None, [0, 3]])
def test_padding_comes_from_the_mask(pads):
    """Spans count from the beginning of the row; leaving `pads` out changes nothing."""
    model = tiny_llama()
    embeds = torch.randn(2, 24, 64)
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, :3] = 0
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))], [(5, (1, 4, 4))]], pads=pads)
    with lightkv.compress(model, "fastv", adapter="generic", layout=layout) as run:
        model(inputs_embeds=embeds, attention_mask=mask)
    assert [sample.text_tokens for sample in run.last.samples] == [8, 5]


def test_other_padding_than_the_masks_is_refused():
    model = tiny_llama()
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, :3] = 0
    for spans_of_second, pads in ([(5, (1, 4, 4))], [0, 2]), ([(2, (1, 4, 4))], None):
        layout = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))], spans_of_second], pads=pads)
        run = lightkv.compress(model, "fastv", adapter="generic", layout=layout)
        with pytest.raises(LayoutError, match="padding"), run:
            model(inputs_embeds=torch.randn(2, 24, 64), attention_mask=mask)
