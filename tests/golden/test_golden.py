"""Vectors computed with the authors' own modules (LightKV's release, ToMe), to 1e-5."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import MatchInput, MergeInput, StageContext
from lightkv.functional import compress_stage
from lightkv.strategies.components.aggregators import WeightedMean
from lightkv.strategies.components.bipartite import Bipartite

DATA = Path(__file__).parent.parent / "data" / "golden"
RELEASE = json.loads((DATA / "lightkv_release.json").read_text())
TOME = json.loads((DATA / "tome.json").read_text())


def vectors(case):
    return load_file(DATA / case["file"])


def run_release(case):
    data = vectors(case)
    images = [(int(a), (1, 1, int(b) - int(a) + 1)) for a, b in data["spans"]]
    layout = VisionLayout.from_spans([images])
    stage = Stage.preset("lightkv-release", windows=case["w"], ratio=case["ratio"])
    return data, compress_stage(data["hidden"], layout, stage, attention_logits=data["scores_text"])


@pytest.mark.parametrize("case", RELEASE, ids=lambda case: f"seed{case['seed']}")
def test_lightkv_release(case):
    data, result = run_release(case)
    assert result.hidden_states.shape == data["out"].shape
    torch.testing.assert_close(result.hidden_states, data["out"], atol=1e-5, rtol=0)
    places = result.layout.token_index(torch.device("cpu")).flat
    spans = [torch.arange(int(a), int(b) + 1) for a, b in data["new_spans"]]
    assert torch.equal(places, torch.cat(spans))


def merge_like_tome(case):
    """Our bipartite matcher and size-weighted mean on ToMe's inputs; `[B, n − r, …]` in raster order."""
    data = vectors(case)
    tokens, size, metric = data["x"], data["size"][..., 0], data["metric"]
    population, keep = tokens.shape[1], tokens.shape[1] - case["r"]
    match = MatchInput(tokens, keep, None, size, metric, StageContext())
    target = Bipartite(metric="keys").match(match)
    own = torch.arange(population).expand_as(target)
    survivors = torch.stack([o[t == o] for t, o in zip(target, own, strict=True)])
    assert survivors.shape[1] == keep
    merge = MergeInput(tokens, target, survivors, None, size, StageContext())
    merged = WeightedMean(weights="size").merge(merge)
    # Place and size of each token's survivor, as ToMe's `source` and `out_size` have them.
    source = (target[:, None, :] == survivors[:, :, None]).float()
    sizes = (source * size[:, None, :]).sum(-1, keepdim=True)
    return data, merged.tokens, source, sizes


def same_order(ours, theirs):
    """For each of their slots the one of ours that holds the same tokens."""
    agrees = (theirs[:, :, None, :] == ours[:, None, :, :]).all(dim=-1)
    assert bool((agrees.sum(dim=-1) == 1).all()), "the groups differ"
    return agrees.float().argmax(dim=-1)


@pytest.mark.parametrize("case", TOME, ids=lambda case: f"seed{case['seed']}")
def test_tome(case):
    data, tokens, source, sizes = merge_like_tome(case)
    # The authors' order is [unmerged sources, destinations]; in a decoder order must stay raster.
    order = same_order(source, (data["source"] > 0).float())
    found = tokens.gather(1, order[..., None].expand_as(tokens))
    torch.testing.assert_close(found, data["out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sizes.gather(1, order[..., None]), data["out_size"])


def print_errors():
    """Largest absolute error of each file: `python tests/golden/test_golden.py`."""
    for case in RELEASE:
        data, result = run_release(case)
        error = float((result.hidden_states - data["out"]).abs().max())
        print(f"{case['file']}: {error:.1e}")
    for case in TOME:
        data, tokens, source, _ = merge_like_tome(case)
        order = same_order(source, (data["source"] > 0).float())
        found = tokens.gather(1, order[..., None].expand_as(tokens))
        print(f"{case['file']}: {float((found - data['out']).abs().max()):.1e}")


if __name__ == "__main__":
    print_errors()
