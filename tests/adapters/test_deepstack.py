"""No stage stands before the last features that a model adds behind its first layers."""

from types import SimpleNamespace

import pytest
import torch
from test_qwen3_vl import DEEP, tiny_qwen3_vl
from test_qwen3_vl import TestQwen3VL as Qwen3VLSuite

import lightkv
from lightkv.adapters.families.generic import GenericAdapter
from lightkv.adapters.hf.deepstack import added_places, first_place
from lightkv.core.errors import ConfigError
from lightkv.testing import Prompt


def test_what_configs_say():
    listed = SimpleNamespace(vision_config=SimpleNamespace(deepstack_visual_indexes=[5, 11, 17]))
    assert first_place(listed) == 3
    named = SimpleNamespace(deepstack_layer_map=[[-2, 9], [-1, 0]], spatial_target_layers=[12, 21])
    assert first_place(named) == 21
    assert first_place(SimpleNamespace(vision_config=None)) == first_place(None) == 0


def test_what_arguments_of_a_pass_say():
    tensor = torch.ones(1)
    assert added_places({"deepstack_visual_embeds": [tensor] * 3}).first == 3
    assert added_places({"deepstack_features": {0: tensor, 9: tensor}}).first == 9
    assert added_places({"deepstack_visual_embeds": None, "inputs_embeds": tensor}).first == 0


@pytest.mark.parametrize("adapter", ["generic", "auto"])
def test_adapters_that_know_no_family_know_it_too(adapter):
    model = tiny_qwen3_vl()
    given = {"layout": lightkv.VisionLayout.from_spans([[(3, (1, 4, 6))]])}
    run = lightkv.compress(
        model,
        "random",
        schedule=[{"after_layer": DEEP - 1, "ratio": 0.5}],
        adapter=adapter,
        **(given if adapter == "generic" else {}),
    )
    with pytest.raises(ConfigError, match=r"first 3 layers .*nearest is 3"):
        run.__enter__()


class Silent(GenericAdapter):
    """Does not read the config, as if it said nothing."""

    def min_layer(self, model):
        return 0


def test_where_only_a_pass_shows_it_the_pass_is_refused():
    suite, prompts = Qwen3VLSuite(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    inputs = suite.make_inputs(model, prompts)
    places = suite.vision_mask(model, inputs, prompts)[0].nonzero().flatten()
    layout = lightkv.VisionLayout.from_spans([[(int(places[0]), (1, 1, len(places)))]])
    for after, works in ((DEEP - 1, False), (DEEP, True)):
        with lightkv.compress(
            model,
            "random",
            schedule=[{"after_layer": after, "ratio": 0.5}],
            adapter=Silent(),
            layout=layout,
        ):
            if works:
                model(**inputs)
                continue
            with pytest.raises(ConfigError, match="adds features of the vision tower") as error:
                model(**inputs)
            assert error.value.field == "schedule[0].after_layer"
