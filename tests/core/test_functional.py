"""`compress_stage`: the snippet of the documentation, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Stage, VisionLayout
from lightkv.core.errors import ConfigError, LayoutError, LightKVError, NumericError
from lightkv.functional import compress_stage
from lightkv.testing import cases
from lightkv.testing.cases import attention


def test_the_documented_snippet():
    hidden_states, logits = torch.randn(1, 600, 32), torch.randn(1, 4, 600, 24)

    layout = VisionLayout.from_spans([[(5, (1, 24, 24))]])
    result = compress_stage(
        hidden_states,
        layout,
        Stage.preset("lightkv", windows=4, ratio=0.5),
        attention_logits=logits,
    )
    assert result.hidden_states.shape == (1, 600 - 288, 32)
    assert result.layout.vision_counts == (288,)
    assert result.assignment.slot.shape == (576,)
    assert result.assignment.survivor.shape == (288,)
    assert torch.equal(result.hidden_states[0, :5], hidden_states[0, :5])
    assert torch.equal(result.hidden_states[0, -19:], hidden_states[0, -19:])
    assert float(result.size.sum()) == 576


@given(case=cases(stages=1))
def test_logits_and_query_with_key_are_the_same(case):
    hidden, layout = case.hidden(), case.layout()
    query, key = attention(hidden)
    logits = query @ key.repeat_interleave(2, dim=1).transpose(-1, -2) * 4**-0.5
    width = max(layout.text_counts)
    block = torch.zeros(*logits.shape[:3], width)
    text = layout.valid_mask() & ~layout.vision_mask()
    for row in range(layout.batch_size):
        own = logits[row, :, :, text[row]]
        block[row, :, :, : own.shape[-1]] = own
    stage = Stage.preset("lightkv", windows=case.windows[0], ratio=case.ratio)
    one = compress_stage(hidden, layout, stage, query=query, key=key)
    other = compress_stage(hidden, layout, stage, attention_logits=block)
    torch.testing.assert_close(one.hidden_states, other.hidden_states, atol=1e-5, rtol=1e-5)
    assert torch.equal(one.assignment.slot, other.assignment.slot)


def arguments(**changes):
    hidden = torch.randn(1, 30, 8)
    query, key = attention(hidden)
    return {"hidden_states": hidden, "query": query, "key": key, **changes}


def call(preset="lightkv", **changes):
    layout = VisionLayout.from_spans([[(3, (1, 4, 5))]])
    windows = 2 if preset == "lightkv" else None
    return compress_stage(
        layout=layout, stage=Stage.preset(preset, windows=windows), **arguments(**changes)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["hidden_states", "query", "key"])
def test_values_that_are_not_finite_are_refused(name, bad):
    given_arguments = arguments()
    given_arguments[name] = given_arguments[name].clone(memory_format=torch.contiguous_format)
    given_arguments[name].view(-1)[7] = bad
    with pytest.raises(NumericError, match=r"1 of .* NaN or infinite") as caught:
        call(**given_arguments)
    assert caught.value.field == name
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("preset", "name", "shape"),
    [("lightkv", "attention_logits", (1, 2, 30, 10)), ("fastv", "last_row", (1, 2, 30))],
)
def test_given_attention_that_is_not_finite_is_refused(preset, name, shape):
    tensor = torch.rand(shape)
    tensor.view(-1)[5] = float("nan")
    with pytest.raises(NumericError) as caught:
        call(preset, query=None, key=None, **{name: tensor})
    assert caught.value.field == name


@given(position=st.integers(0, 29))
def test_without_the_check_nan_stays_in_its_slot(position):
    """Documented: it spreads to the slot that its token flows into and nowhere else."""
    hidden = torch.randn(1, 30, 8)
    query, key = attention(hidden)
    broken = hidden.clone()
    broken[0, position, 0] = float("nan")
    result = call(hidden_states=broken, query=query, key=key, check_finite=False)
    rows = torch.isnan(result.hidden_states[0]).any(dim=-1)
    assert int(rows.sum()) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"query": None, "key": None}, ConfigError, "attention_logits"),
        ({"query": torch.randn(1, 4, 29, 4)}, ConfigError, r"\[1, \?, 30, \?\]"),
        ({"key": torch.randn(2, 2, 30, 4)}, ConfigError, "key"),
        (
            {"query": None, "key": None, "attention_logits": torch.randn(1, 4, 30, 9)},
            ConfigError,
            r"\[1, \?, 30, 10\]",
        ),
        ({"hidden_states": torch.randn(2, 30, 8)}, LayoutError, "1 samples"),
        ({"hidden_states": torch.randn(30, 8)}, LayoutError, "hidden_states"),
        ({"hidden_states": torch.randn(1, 22, 8)}, LayoutError, "ends at position 22"),
        ({"size": torch.ones(7)}, LightKVError, "size"),
    ],
)
def test_arguments_that_do_not_fit(changes, kind, words):
    with pytest.raises(kind, match=words):
        call(**changes)


def test_last_row_is_enough_for_a_scorer_that_reads_nothing_else():
    row = torch.rand(1, 2, 30)
    result = call("fastv", query=None, key=None, last_row=row)
    importance = row.mean(dim=1)[0, 3:23]
    kept = importance.topk(10).indices.sort().values
    assert torch.equal(result.assignment.survivor, kept)
    torch.testing.assert_close(result.score, importance)
