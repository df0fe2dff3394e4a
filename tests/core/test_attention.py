"""What a view gives against dense attention, and how much it forms at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lightkv import Stage, VisionLayout
from lightkv.core import attention as module
from lightkv.core.attention import QueryKeyView
from lightkv.core.prompt import PromptIndex, prompt_index
from lightkv.core.stage.stage import Readings
from lightkv.core.stage.step import run_stage
from lightkv.strategies.components.attention_scorers import (
    CausalAttention,
    LastToken,
    PromptAttention,
)
from lightkv.testing import cases


class Dense:
    """Everything the slow way: full logits of every head over cached and new keys."""

    def __init__(self, layout, query, key, scaling, softcap, cached_valid):
        groups = query.shape[1] // key.shape[1]
        logits = query @ key.repeat_interleave(groups, dim=1).transpose(-1, -2) * scaling
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        self.past = key.shape[2] - query.shape[2]
        new = layout.valid_mask()
        old = new.new_ones(new.shape[0], self.past) if cached_valid is None else cached_valid
        self.valid = torch.cat([old, new], dim=1)
        self.logits = logits.double()
        self.text = new & ~layout.vision_mask()
        self.queries = new

    def over_queries(self):
        own = self.logits[..., self.past :].masked_fill(~self.queries[:, None, :, None], -torch.inf)
        share = own.softmax(dim=2)
        return torch.where(self.text[:, None, None, :], share, 0).sum(dim=(1, 3))

    def over_keys(self):
        share = self.logits.masked_fill(~self.valid[:, None, None, :], -torch.inf).softmax(-1)
        return torch.where(self.text[:, None, None, :], share[..., self.past :], 0).sum(dim=(1, 3))

    def causal(self):
        length = self.logits.shape[2]
        allowed = torch.ones(length, length + self.past).tril(self.past).bool()
        allowed = allowed & self.valid[:, None, None, :]
        return self.logits.masked_fill(~allowed, -1e30).softmax(-1)[..., self.past :]

    def text_to_token(self):
        return torch.where(self.text[:, None, :, None], self.causal(), 0).sum(dim=(1, 2))

    def last(self):
        return self.causal()[:, :, -1].mean(dim=1)


def make(case, past, softcap, padded_cache, heads=4, kv_heads=2):
    layout = case.layout()
    generator = torch.Generator().manual_seed(case.seed)
    batch, length = layout.batch_size, layout.length
    query = torch.randn(batch, heads, length, 4, generator=generator)
    key = torch.randn(batch, kv_heads, length + past, 4, generator=generator)
    cached = None
    if padded_cache and past:
        cached = torch.ones(batch, past, dtype=torch.bool)
        cached[0, : past // 2] = False
    view = QueryKeyView(
        query, key, 0.4, prompt_index(layout, query.device), cached_valid=cached, softcap=softcap
    )
    return layout, view, Dense(layout, query, key, 0.4, softcap, cached)


SCORERS = {
    "over_queries": PromptAttention(),
    "over_keys": PromptAttention(normalize="keys"),
    "text_to_token": CausalAttention(),
    "last": LastToken(),
}


@given(
    case=cases(),
    past=st.sampled_from([0, 0, 5]),
    softcap=st.sampled_from([None, 2.0]),
    padded_cache=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
)
@pytest.mark.parametrize("name", sorted(SCORERS))
@pytest.mark.parametrize("block", [None, 8])
def test_guidance_equals_dense_attention(name, block, case, past, softcap, padded_cache, kv_heads):
    """Grouped heads, padding, a cache and a soft cap; in one block and in blocks of a few numbers."""
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(module, "BLOCK_ELEMENTS", block)
        layout, view, dense = make(case, past, softcap, padded_cache, kv_heads=kv_heads)
        found = SCORERS[name].read_attention(view)
    wanted = getattr(dense, name)().float()
    vision = layout.vision_mask()
    torch.testing.assert_close(found[vision], wanted[vision], atol=1e-5, rtol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation inside the block produced."""

    def __init__(self):
        super().__init__()
        self.elements = 0
        self.shape = ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            # An expanded view holds no memory of its own.
            held = isinstance(tensor, torch.Tensor) and 0 not in tensor.stride()
            if held and tensor.numel() > self.elements:
                self.elements, self.shape = tensor.numel(), tuple(tensor.shape)
        return out


HEADS, WIDTH, SIDE, PROMPT = 8, 64, 24, 20


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("lightkv", {}),
        ("lightkv", {"scorer": {"name": "prompt-attention", "normalize": "keys"}}),
        ("lightkv", {"scorer": "causal-attention"}),
        ("lightkv-release", {}),
        ("fastv", {}),
        ("tome", {}),
        ("random", {}),
    ],
)
def test_no_square_of_the_sequence_is_formed(preset, overrides, monkeypatch):
    """Nothing near `[H, N, N]`: at most the `[H, N, P]` block, the query or a window's similarities."""
    length = SIDE * SIDE + PROMPT
    # A block is far smaller than one head's square here, as at full size.
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", HEADS * length * PROMPT)
    layout = VisionLayout.from_spans([[(5, (1, SIDE, SIDE))]], length=length)
    query = torch.randn(1, HEADS, length, WIDTH // HEADS)
    key = torch.randn(1, HEADS, length, WIDTH // HEADS)
    hidden = torch.randn(1, length, WIDTH)
    windows = 4 if "lightkv" in preset else None
    stage = Stage.preset(preset, windows=windows, ratio=0.5, **overrides)
    plan = stage.plan(layout)
    prompt = prompt_index(layout, hidden.device)
    with LargestTensor() as largest:
        view = QueryKeyView(query, key, 0.3, prompt)
        score = stage.scorer.read_attention(view) if stage.scorer and stage.scorer.needs() else None
    guidance = HEADS * length * max(PROMPT, WIDTH // HEADS)
    assert largest.elements <= guidance, largest.shape
    assert guidance < HEADS * length * length / 20
    with LargestTensor() as largest:
        run_stage(hidden, layout, stage, plan, readings=Readings(score))
    whole_window = (SIDE * SIDE // 2) ** 2
    assert largest.elements <= max(whole_window if windows is None else 0, hidden.numel())


def test_blocks_say_which_prompt_tokens_and_heads_they_cover(monkeypatch):
    """Together they cover each (head, prompt token) once, however small the blocks are."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(module, "BLOCK_SHARE", 10**9)
    prompt = PromptIndex(
        torch.tensor([[0, 3, 4], [1, 2, 0]]),
        torch.tensor([[True, True, True], [True, True, False]]),
        torch.ones(2, 5, dtype=torch.bool),
    )
    view = QueryKeyView(torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3), 1.0, prompt)
    for blocks, axis in ((view.prompt_logits(), 3), (view.prompt_rows(), 2)):
        covered = torch.zeros(4, 3)
        for block in blocks:
            assert block.values.shape[axis] == block.columns.stop - block.columns.start
            covered[block.heads, block.columns] += 1
        assert bool((covered == 1).all())
