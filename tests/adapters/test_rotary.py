"""Rotary tables in all forms that decoders hand to their layers, and position ids that layers read."""

from types import SimpleNamespace

import pytest
import torch
from test_llava import TestLlava as LlavaSuite
from tiny import tiny_llama, tiny_qwen2_5_vl

from lightkv.adapters.families.generic import GenericAdapter
from lightkv.adapters.hf.rotary import Rotary, axis_positions, gather_rotary
from lightkv.core.errors import ModelError
from lightkv.strategies.components.positions import Keep

KEPT = torch.tensor([[0, 2, 5], [1, 3, 4]])


def test_tables_are_gathered_in_every_form():
    table = torch.randn(1, 6, 4)
    wanted = torch.stack([table[0, row] for row in KEPT])
    cos, sin = gather_rotary((table, -table), KEPT)
    assert torch.equal(cos, wanted)
    assert torch.equal(sin, -wanted)
    turned = torch.polar(torch.ones(1, 6, 2), table[..., :2])
    assert torch.equal(gather_rotary(turned, KEPT)[1], turned[0, KEPT[1]])
    by_kind = gather_rotary({"full": (table, table), "none": None}, KEPT)
    assert torch.equal(by_kind["full"][1], wanted)
    assert by_kind["none"] is None


@pytest.mark.parametrize("axes", [3, 4])
def test_positions_have_as_many_axes_as_the_decoder_says(axes):
    """One more is that of the text, for masks."""
    adapter, decoder = GenericAdapter(), SimpleNamespace()
    decoder.rotary_emb = SimpleNamespace(mrope_section=[2] * axes)
    given = torch.arange(axes + 1)[:, None, None].expand(-1, 2, 6)
    found = axis_positions(adapter, decoder, given)
    assert found[:, 0, 0].tolist() == list(range(1, axes + 1))
    assert torch.equal(axis_positions(adapter, decoder, given[1:]), found)


def test_axes_of_which_nobody_knows_what_they_mean_are_refused():
    decoder = tiny_qwen2_5_vl().model.language_model
    places = torch.arange(6).expand(3, 1, -1)
    assert GenericAdapter().rotary(decoder, torch.zeros(1, 6, 4), places)[0].shape[-2] == 6
    with pytest.raises(ModelError, match="3 axes") as error:
        GenericAdapter().rotary(tiny_llama().model, torch.zeros(1, 6, 4), places)
    assert error.value.field == "positions"


def test_layers_that_need_position_ids_are_refused_with_flash_attention():
    """It would take the gaps between those of survivors for the borders of packed prompts."""
    rotary = Rotary(GenericAdapter(), tiny_llama().model, 6, Keep())
    flash, ids = SimpleNamespace(mask_style="flash"), torch.arange(6)[None]
    assert rotary.position_ids(flash, 0, ids, needed=False) is None
    assert rotary.position_ids(flash, 0, None, needed=True) is None
    with pytest.raises(ModelError, match="set_attn_implementation"):
        rotary.position_ids(flash, 0, ids, needed=True)


@pytest.mark.parametrize("policy", ["keep", "renumber", "renumber-contiguous"])
def test_layers_without_rotary_positions_get_none(policy):
    """Half of the layers are given None, before any session and inside it."""
    suite = LlavaSuite()
    model, seen = suite.make_model(), []

    def none(module, args, kwargs):
        return args, {**kwargs, "position_embeddings": None}

    def look(module, args, kwargs):
        seen.append(kwargs["position_embeddings"])
        table = torch.zeros(1, args[0].shape[1], 16)
        return args, {**kwargs, "position_embeddings": (table + 1, table)}

    layer = model.get_decoder().layers[5]
    layer.register_forward_pre_hook(none, with_kwargs=True)
    with suite.session(model, suite.pair, "random", positions=policy):
        layer.register_forward_pre_hook(look, with_kwargs=True)
        suite.generate(model, suite.make_inputs(model, suite.pair))
    assert seen == [None] * suite.steps
