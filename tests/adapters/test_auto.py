"""Models of which no family knows: what is found by name, what is warned of, and what is refused."""

import types
import warnings

import numpy as np
import pytest
import torch
from rows import picture_rows
from test_mistral3 import TestMistral3 as Mistral3Suite
from test_qwen_vl import TestQwen25VL as QwenSuite
from tiny import TEXT, TOWER, clip, tiny_llava, tiny_qwen2_5_vl
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaTextConfig,
    Idefics3VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)

import lightkv
from lightkv.adapters.families import auto
from lightkv.adapters.families.auto import AutoAdapter
from lightkv.adapters.hf import anatomy
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LightKVWarning, ModelError, SessionError
from lightkv.core.run.adapter import find_adapter
from lightkv.testing import Prompt

HALF = [{"after_layer": 2, "ratio": 0.5}]
ONE = (Prompt(2, 1, 3, seed=1),)


def stranger(model, model_type="stranger"):
    """A model whose config has a type of which nobody knows."""
    model.config.model_type = model_type
    return model


def warned(model, inputs, **options):
    """The only warning of a compressed pass, and its report."""
    with (
        pytest.warns(LightKVWarning) as found,
        lightkv.compress(model, "fastv", schedule=HALF, gap_warning=False, **options) as run,
    ):
        model(**inputs)
    (text,) = {str(each.message) for each in found}
    return text, run.last


def views(model, inputs):
    adapter = AutoAdapter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LightKVWarning)
        layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), dict(inputs)))
    return [[view.grid for view in sample.views] for sample in layout.samples]


# -- what it finds --------------------------------------------------------------------------------


def test_squares_of_a_fixed_size():
    model = stranger(tiny_llava())
    inputs = picture_rows(model, ONE, [5] * 36, 48)
    text, report = warned(model, inputs)
    assert "'stranger'" in text
    assert "the decoder is LlamaModel" in text
    assert "image tokens are those of image_token_id, grids of 6 × 6" in text
    assert report.samples[0].original == 36
    assert views(model, inputs) == [[(1, 6, 6)]]


def test_grids_of_the_processor_with_the_merge_of_the_config():
    suite = QwenSuite()
    model = stranger(tiny_qwen2_5_vl())
    inputs = suite.make_inputs(model, ONE)
    text, _ = warned(model, inputs)
    assert "grids of image_grid_thw / 2" in text
    ((frames, rows, columns),) = inputs["image_grid_thw"].tolist()
    assert views(model, inputs) == [[(frames, rows // 2, columns // 2)]]


def test_sizes_in_pixels():
    suite = Mistral3Suite()
    model = stranger(suite.make_model())
    inputs = suite.make_inputs(model, ONE)
    text, _ = warned(model, inputs)
    assert "grids of image_sizes / " in text
    known = find_adapter(suite.make_model()).layout(
        model, read_inputs(model.model, (), dict(inputs))
    )
    assert views(model, inputs) == [[view.grid for view in known.samples[0].views]]


def test_a_strip_where_nothing_fits():
    """Without `image_seq_length` nobody says that 36 tokens are six rows."""
    model = stranger(tiny_llava())
    model.config.image_seq_length = 35
    inputs = picture_rows(model, (Prompt(2, 2, 3, seed=1),), [5] * 36, 48)
    text, report = warned(model, inputs)
    assert "one strip for each run, no sizes fit" in text
    assert report.samples[0].original == 72
    assert views(model, inputs) == [[(1, 1, 72)]]


def test_latents_are_no_square():
    """Sixteen latents of 6 × 6 patches: a square number, but no cell has a place."""
    config = AriaConfig(
        text_config=AriaTextConfig(**{**TEXT, "moe_num_experts": 4, "intermediate_size": 32}),
        vision_config=Idefics3VisionConfig(**TOWER, image_size=48, patch_size=8),
        projector_patch_to_query_dict={36: 16},
        image_token_index=5,
        image_seq_length=16,
    )
    model = stranger(AriaForConditionalGeneration(config).eval())
    assert auto.fixed_side(model.config) is None
    inputs = picture_rows(model, ONE, [5] * 16, 48)
    inputs["pixel_mask"] = torch.ones(1, 48, 48, dtype=torch.bool)
    text, _ = warned(model, inputs)
    assert "strip" in text
    assert views(model, inputs) == [[(1, 1, 16)]]


@pytest.mark.parametrize("merge", [1, 2, 4])
def test_a_merge_that_the_config_does_not_name(merge):
    """The numbers tell, but only if they fit exactly."""
    inputs = types.SimpleNamespace(
        optional=lambda *_: True, sizes=lambda *_: [(1, 8, 16), (1, 4, 8)]
    )
    config = types.SimpleNamespace(vision_config=None)
    here = np.zeros((1, 200), dtype=bool)
    here[0, 3 : 3 + (128 + 32) // merge**2] = True
    source, pictures = auto.first_fitting(
        "image", here, auto.guesses(config, inputs, "image", here)
    )
    assert source == ("image_grid_thw" if merge == 1 else f"image_grid_thw / {merge}")
    assert [picture.tokens for picture in pictures] == [128 // merge**2, 32 // merge**2]
    here[0, 199] = True
    assert auto.first_fitting("image", here, auto.guesses(config, inputs, "image", here)) is None


def test_a_subclass_with_a_type_of_its_own():
    class NewConfig(LlavaConfig):
        model_type = "new_llava"

    class New(LlavaForConditionalGeneration):
        config_class = NewConfig

    config = NewConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**TEXT),
        image_token_id=5,
        image_seq_length=36,
    )
    model = New(config).eval()
    assert find_adapter(model).name == "auto"
    inputs = picture_rows(model, ONE, [5] * 36, 48)
    with pytest.warns(LightKVWarning, match="new_llava"), lightkv.compress(model, "lightkv") as run:
        model.generate(**inputs, max_new_tokens=3)
    assert run.last.samples[0].vision_tokens[-1] < 36


def test_it_answers_as_the_family_does():
    """The same tokens, the same logits: only the way to the geometry differs."""
    suite = QwenSuite()
    inputs = suite.make_inputs(tiny_qwen2_5_vl(), ONE)
    found = []
    for model in (tiny_qwen2_5_vl(), stranger(tiny_qwen2_5_vl())):
        with lightkv.compress(model, "lightkv", retention=0.5, gap_warning=False):
            found.append(model(**inputs).logits)
    assert torch.equal(*found)


def test_families_are_asked_before():
    assert find_adapter(tiny_llava()).name == "llava"
    assert find_adapter(stranger(tiny_llava())).name == "auto"


# -- what it refuses ------------------------------------------------------------------------------


def refused(model, match, field="model"):
    with pytest.raises(ModelError, match=match) as error:
        find_adapter(model)
    assert error.value.field == field
    assert error.value.remedy
    return error.value


def test_an_encoder_decoder():
    model = stranger(tiny_llava())
    model.config.is_encoder_decoder = True
    refused(model, "encoder-decoder")


def test_layers_with_cross_attention():
    model = stranger(tiny_llava())
    model.model.language_model.layers[3].encoder_attn = torch.nn.Identity()
    assert "encoder_attn" in refused(model, "cross-attention").message


def test_no_decoder_with_layers():
    model = stranger(tiny_llava())
    model.model.language_model.blocks = model.model.language_model.layers
    del model.model.language_model.layers
    refused(model, "no decoder with a list called `layers`")


def test_no_placeholders(monkeypatch):
    model = stranger(tiny_llava())
    monkeypatch.setattr(anatomy, "TOKENS", ("id_of_the_token",))
    assert "generic" in refused(model, "no id of placeholders").remedy


def test_layers_of_an_unknown_kind():
    model = stranger(tiny_qwen2_5_vl())
    model.model.language_model.config.layer_types = ["indexed_attention"] * 6
    with (
        pytest.raises(ModelError, match="indexed_attention"),
        lightkv.compress(model, "fastv", schedule=HALF),
    ):
        pass


def test_tokens_that_see_later_ones():
    model = stranger(tiny_llava())
    model.config.get_text_config().use_bidirectional_attention = "vision"
    refused(model, "see later ones", "model.config.use_bidirectional_attention")


def test_pixels_under_a_name_that_nobody_knows():
    class Odd(Qwen2_5_VLForConditionalGeneration):
        def forward(self, input_ids=None, attention_mask=None, pictures=None):
            raise NotImplementedError

    class Inner(type(tiny_qwen2_5_vl().model)):
        def forward(self, input_ids=None, attention_mask=None, pictures=None):
            raise NotImplementedError

    model = stranger(tiny_qwen2_5_vl())
    model.__class__, model.model.__class__ = Odd, Inner
    assert anatomy.find_inputs(model) is None
    refused(model, "takes ids and pixels")


def test_a_text_model_is_none_of_its_business():
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    assert not AutoAdapter().matches(model)
    refused(model, "no adapter serves LlamaForCausalLM")


def test_a_picture_in_a_later_turn():
    """Whether its tokens see one another on a filled cache is nothing that a name tells."""
    model = stranger(tiny_llava())
    inputs = picture_rows(model, ONE, [5] * 36, 48)
    with lightkv.compress(model, "fastv", schedule=HALF):
        with pytest.warns(LightKVWarning):
            out = model(**inputs, use_cache=True)
        with pytest.raises(SessionError, match="filled cache"):
            model(**inputs, past_key_values=out.past_key_values)
