"""The contract of GLM-4.6V: as GLM-4.1V, with tags around each frame of a clip."""

from grids import GLM_IDS, Clips, GlmGrids, rope, text, tower
from releases import needs_class
from transformers import (
    AutoModelForImageTextToText,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
)

from lightkv.adapters.families.glm4v import Glm4vAdapter
from lightkv.testing import AdapterSuite


class Glm46v(GlmGrids):
    model = Glm46VForConditionalGeneration

    def config(self, **given):
        rotary = rope(partial_rotary_factor=0.5, mrope_section=[1, 1, 2])
        return Glm46VConfig(
            text_config={"model_type": "glm4v_text", **text(rope_parameters=rotary)},
            vision_config={"model_type": "glm4v_vision", **tower(image_size=32)},
            **GLM_IDS,
            **given,
        )


class TestGlm46v(Glm46v, AdapterSuite):
    pass


class TestClips(Clips, Glm46v):
    pass


def test_its_alias_is_the_same_class():
    """GLM-GA checkpoints are run by the class of GLM-4.6V, with a config of their own."""
    config = needs_class("GlmgaConfig")(**Glm46v().config().to_dict())
    assert config.model_type in Glm4vAdapter.model_types
    assert isinstance(AutoModelForImageTextToText.from_config(config), Glm46v.model)
