"""Position policies on tensors: which rotary position each survivor carries."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given

from lightkv import VisionLayout
from lightkv.core.contracts import PositionInput
from lightkv.core.pipeline.pipeline import resolve_spec
from lightkv.core.plugins import build_component
from lightkv.testing import Chain, cases
from lightkv.testing.cases import stages_of

CPU = torch.device("cpu")


def step_of(case, preset="lightkv"):
    spec = resolve_spec(preset)
    stages = stages_of(spec, case.windows[:1], case.ratio)
    return Chain.run(stages, case.hidden(), case.layout()).steps[0]


def inputs_of(step, axes=1):
    """Two axes of positions with different strides, so axes cannot be mixed up."""
    layout, result = step.layout, step.result
    counts = torch.arange(layout.length)[None] - torch.tensor(layout.pads)[:, None]
    positions = torch.stack([(1 + axis) * counts.clamp(min=0) for axis in range(axes)])
    return PositionInput(
        positions=positions,
        kept=result.kept,
        pads=torch.tensor(result.layout.pads),
        old_pads=torch.tensor(layout.pads),
        vision=result.layout.token_index(CPU).flat,
        slot=result.assignment.slot,
        share=result.assignment.weight,
        before=layout.token_index(CPU).flat,
    )


@given(case=cases(stages=1))
def test_keep_leaves_positions_to_be_gathered(case):
    assert build_component("positions", "keep").positions(inputs_of(step_of(case))) is None


@given(case=cases(stages=1))
def test_renumber_counts_from_zero(case):
    step = step_of(case)
    for name in ("renumber", "renumber-contiguous"):
        found = build_component("positions", name).positions(inputs_of(step))
        for row, pad in enumerate(step.result.layout.pads):
            own = found[0, row, pad:]
            assert torch.equal(own, torch.arange(own.numel()))


@given(case=cases(stages=1))
def test_barycentric_is_the_weighted_mean_position(case):
    step = step_of(case)
    given_inputs = inputs_of(step, axes=2)
    found = build_component("positions", "barycentric").positions(given_inputs)
    kept = given_inputs.positions.gather(2, given_inputs.kept.expand(2, -1, -1)).float()
    assignment = step.result.assignment
    old = given_inputs.positions.flatten(1).float()
    wanted = kept.flatten(1).clone()
    for slot, place in enumerate(given_inputs.vision):
        members = (assignment.slot == slot).nonzero().flatten()
        share = assignment.weight[members]
        wanted[:, place] = (old[:, given_inputs.before[members]] * share).sum(1) / share.sum()
    torch.testing.assert_close(found.flatten(1), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["keep", "renumber", "barycentric"])
def test_a_batch_that_lost_all_vision_tokens(name):
    """Nothing is left to give a position to, and the text still has one."""
    layout = VisionLayout.from_spans([[(1, (1, 1, 1))]], length=4)
    stages = stages_of(resolve_spec("fastv"), [None], 0.9)
    step = Chain.run(stages, torch.randn(1, 4, 8), layout).steps[0]
    assert step.result.layout.vision_counts == (0,)
    found = build_component("positions", name).positions(inputs_of(step))
    wanted = {"keep": None, "renumber": [0, 1, 2], "barycentric": [0, 2, 3]}[name]
    assert (None if found is None else found[0, 0].tolist()) == wanted


@given(case=cases(stages=1))
def test_renumber_goes_on_where_a_later_turn_begins(case):
    step = step_of(case)
    inputs = inputs_of(step)
    later = replace(inputs, positions=inputs.positions + 100)
    policy = build_component("positions", "renumber")
    valid = step.result.layout.valid_mask()
    moved = (policy.positions(later) - policy.positions(inputs))[0]
    assert torch.equal(moved[valid], torch.full_like(moved[valid], 100))
