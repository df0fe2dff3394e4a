"""What layers are given for each token goes with the tokens, wherever it stands."""

import pytest
import torch
from tiny import tiny_llama

import lightkv
from lightkv.adapters.hf.layer_arguments import TokenArguments, gather_tokens
from lightkv.core.errors import CompatibilityError

KEPT = torch.tensor([[0, 2, 5], [1, 3, 4]])
"""Survivors of two rows of six positions."""
NUMBERS = torch.arange(12).reshape(2, 6)


def gathered(value, name="extra", **changes):
    return gather_tokens(value, name, 6, KEPT, **changes)


def test_what_is_found_by_shape():
    assert gathered(NUMBERS).tolist() == [[0, 2, 5], [7, 9, 10]]
    assert gathered(NUMBERS[:1]).tolist() == [[0, 2, 5], [1, 3, 4]]
    wide = torch.randn(2, 6, 3, 2)
    assert torch.equal(gathered(wide)[1], wide[1, KEPT[1]])
    pair, named = gathered((NUMBERS, None)), gathered({"a": [NUMBERS.bool()], "b": 3})
    assert type(pair) is tuple
    assert pair[0].shape == named["a"][0].shape == (2, 3)
    assert (pair[1], named["b"]) == (None, 3)


def test_what_is_no_matter_of_tokens_stays_as_it_is():
    for value in (None, 6, "all", torch.ones(6 + 1), torch.ones(2, 4, 3), (torch.ones(()),)):
        assert gathered(value) is value


@pytest.mark.parametrize("shape", [(6,), (6, 2), (3, 6), (2, 4, 6), (2, 6, 6)])
def test_what_cannot_be_gathered_is_refused(shape):
    with pytest.raises(CompatibilityError, match=r"'extra'.*sized by the sequence") as error:
        gathered(torch.ones(shape))
    assert error.value.field == "extra"
    assert "token_arguments" in str(error.value.remedy)


def test_a_family_may_say_where_tokens_are():
    known = {"deep": 2, "constant": None, "square": 1}
    arguments = TokenArguments(tiny_llama().get_decoder().layers, known)
    given = {"deep": torch.ones(2, 4, 6), "constant": torch.ones(6), "square": torch.ones(2, 6, 6)}
    layer = tiny_llama().get_decoder().layers[0]
    _, found = arguments.of_survivors(layer, 6, KEPT, (), given)
    assert [tuple(value.shape) for value in found.values()] == [(2, 4, 3), (6,), (2, 3, 6)]


def test_arguments_by_place_are_known_by_their_names():
    """The second of Llama is the mask, which is replaced elsewhere; behind the last are more."""
    layers = tiny_llama().get_decoder().layers
    arguments = TokenArguments(layers, {})
    mask = torch.ones(2, 1, 6, 6)
    (found,), _ = arguments.of_survivors(layers[0], 6, KEPT, (mask,), {})
    assert found is mask
    with pytest.raises(CompatibilityError, match="argument"):
        arguments.of_survivors(layers[0], 6, KEPT, (None,) * 9 + (mask,), {})


def test_layers_that_are_called_with_more():
    """A hook adds a number for each token, and one that nobody can shorten."""
    model, seen = tiny_llama(), []
    layout = lightkv.VisionLayout.from_spans([[(1, (1, 4, 4))]])
    ids = torch.arange(20)[None] + 20

    def calls(**more):
        def add(module, args, kwargs):
            return args, {**kwargs, **more}

        def look(module, args, kwargs):
            seen.append(kwargs["number"][0].tolist())

        handles = [x.register_forward_pre_hook(add, with_kwargs=True) for x in model.model.layers]
        try:
            with lightkv.compress(
                model,
                "random",
                schedule=[{"after_layer": 2, "ratio": 0.5}],
                adapter="generic",
                layout=layout,
            ):
                layers = model.model.layers
                handles += [x.register_forward_pre_hook(look, with_kwargs=True) for x in layers]
                model(ids)
        finally:
            for handle in handles:
                handle.remove()

    calls(number=torch.arange(20)[None])
    assert [len(numbers) for numbers in seen] == [20, 20, 12, 12, 12, 12]
    assert seen[2][0] == 0
    assert seen[2][-3:] == [17, 18, 19]
    with pytest.raises(CompatibilityError, match="'pairs'"):
        calls(number=torch.arange(20)[None], pairs=torch.ones(1, 20, 20))


def test_position_ids_follow_the_survivors():
    """Attention that scales its queries by them gets those of the tokens that are left."""
    model, seen = tiny_llama(), []
    layout = lightkv.VisionLayout.from_spans([[(1, (1, 4, 4))]])

    def look(module, args, kwargs):
        seen.append(kwargs["position_ids"][0].tolist())

    for positions in ("keep", "renumber"):
        stages = [{"after_layer": 2, "ratio": 0.5}]
        with lightkv.compress(
            model, "random", schedule=stages, adapter="generic", layout=layout, positions=positions
        ):
            handle = model.model.layers[3].register_forward_pre_hook(look, with_kwargs=True)
            model(torch.arange(20)[None] + 20)
            handle.remove()
    assert seen[0][-3:] == [17, 18, 19]
    assert seen[1] == list(range(12))
