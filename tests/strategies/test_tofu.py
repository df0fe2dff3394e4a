"""ToFu: laws, slow reference, the switch from pruning to merging."""

import pytest
import torch
from references import DIFFERENCES

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.functional import compress_stage
from lightkv.testing import StrategySuite


class TestToFu(StrategySuite):
    preset = "tofu"


class TestToFuDestination(StrategySuite):
    preset = {
        "matcher": "bipartite",
        "aggregator": {"name": "fusion", "mode": "merge", "divisor": "destination"},
    }


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith("tofu")])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def norms(context, **parameters):
    torch.manual_seed(1)
    hidden = torch.randn(1, 66, 16)
    layout = VisionLayout.from_spans([[(1, (1, 8, 8))]])
    stage = Stage.preset("tofu", ratio=0.5, aggregator={"name": "fusion", **parameters})
    result = compress_stage(hidden, layout, stage, context=context)
    old = hidden[0, 1:65].norm(dim=-1)
    largest = torch.zeros(32).scatter_reduce(0, result.assignment.slot, old, "amax")
    survivors = result.assignment.survivor
    return result.hidden_states[0, 1:33].norm(dim=-1), largest, old[survivors], result


def test_a_merged_token_has_the_largest_norm_of_its_group():
    found, largest, _, _ = norms(StageContext())
    torch.testing.assert_close(found, largest)


def test_the_common_code_does_not_keep_it():
    found, largest, _, _ = norms(StageContext(), divisor="destination")
    assert not torch.allclose(found, largest, rtol=1e-2)


@pytest.mark.parametrize(("after", "prunes"), [(15, True), (16, True), (17, False)])
def test_early_stages_prune(after, prunes):
    found, _, old, result = norms(StageContext(after_layer=after, num_layers=32))
    assert torch.equal(found, old) == prunes
    assert bool((result.assignment.weight == 0).any()) == prunes
