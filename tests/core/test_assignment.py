"""Composition of assignments and what is read off them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Assignment
from lightkv.core.errors import LayoutError


@st.composite
def assignments(draw, counts=None):
    """A random convex assignment: some tokens survive, the rest join one or are dropped."""
    if counts is None:
        counts = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=3)))
    slot, survivor, slots, first = [], [], [], 0
    for count in counts:
        alive = sorted(draw(st.sets(st.integers(0, count - 1)))) if count else []
        base = len(survivor)
        for token in range(count):
            if token in alive:
                slot.append(base + alive.index(token))
            else:
                choices = [-1, *range(base, base + len(alive))]
                slot.append(draw(st.sampled_from(choices)))
        survivor += [first + token for token in alive]
        slots.append(len(alive))
        first += count
    raw = torch.tensor([draw(st.floats(0.1, 1.0)) for _ in slot], dtype=torch.float32)
    slot, survivor = torch.tensor(slot).long(), torch.tensor(survivor).long()
    raw = torch.where(slot >= 0, raw, 0.0)
    part = Assignment(slot, raw, survivor, counts, tuple(slots))
    total = part.pooled(raw)
    share = raw / total[slot.clamp(min=0)] if len(survivor) else raw
    return Assignment(slot, torch.where(slot >= 0, share, 0.0), survivor, counts, tuple(slots))


@given(data=st.data())
def test_composition_is_associative(data):
    a = data.draw(assignments())
    b = data.draw(assignments(a.slot_counts))
    c = data.draw(assignments(b.slot_counts))
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert torch.equal(left.slot, right.slot)
    assert torch.equal(left.survivor, right.survivor)
    torch.testing.assert_close(left.weight, right.weight)
    assert left.slot_counts == right.slot_counts == c.slot_counts
    assert left.token_counts == a.token_counts


@given(data=st.data())
def test_composition_is_what_running_both_does(data):
    a = data.draw(assignments())
    b = data.draw(assignments(a.slot_counts))
    tokens = torch.randn(sum(a.token_counts), 3)
    torch.testing.assert_close(a.then(b).merged(tokens), b.merged(a.merged(tokens)))
    held = a.then(b)
    assert int(held.group_sizes().sum()) + int((held.slot < 0).sum()) == tokens.shape[0]


@given(a=assignments())
def test_identity_is_neutral(a):
    before, after = Assignment.identity(a.token_counts), Assignment.identity(a.slot_counts)
    for same in (before.then(a), a.then(after)):
        assert torch.equal(same.slot, a.slot)
        assert torch.equal(same.survivor, a.survivor)
        torch.testing.assert_close(same.weight, a.weight)


@given(a=assignments())
def test_pooling_sums_the_tokens_of_each_slot(a):
    values = torch.randn(a.slot.numel(), 2)
    pooled = a.pooled(values)
    for slot in range(a.survivor.numel()):
        wanted = values[a.slot == slot].sum(0)
        torch.testing.assert_close(pooled[slot], wanted)
    assert torch.equal(a.pooled(values[:, 0]), pooled[:, 0])


def test_assignments_of_other_runs_do_not_chain():
    with pytest.raises(LayoutError, match="do not chain"):
        Assignment.identity((3,)).then(Assignment.identity((2,)))
