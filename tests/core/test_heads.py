"""Reductions over heads that are spread over processes, with processes that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.stage.stage import Stage
from lightkv.core.stage.step import run_stage


class Meeting:
    """Lets a number of threads exchange tensors."""

    def __init__(self, size: int) -> None:
        self.parts: dict[int, torch.Tensor] = {}
        self.barrier = threading.Barrier(size, timeout=20)

    def exchange(self, rank: int, values: torch.Tensor) -> list[torch.Tensor]:
        self.barrier.wait()
        self.parts[rank] = values
        self.barrier.wait()
        return [self.parts[i] for i in sorted(self.parts)]


class Threads(HeadGroup):
    def __init__(self, meeting: Meeting, rank: int, size: int) -> None:
        super().__init__()
        self.meeting, self.rank, self.size = meeting, rank, size

    def all_reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        stack = torch.stack(self.meeting.exchange(self.rank, values))
        return stack.sum(0) if how == "sum" else stack.amax(0)

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        return self.meeting.exchange(self.rank, values)[0].clone()


def spread(size: int, work: Callable[[int, HeadGroup], Any]) -> list[Any]:
    meeting, out = Meeting(size), [None] * size

    def go(rank: int) -> None:
        out[rank] = work(rank, Threads(meeting, rank, size))

    threads = [threading.Thread(target=go, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return out


def test_reductions_see_the_heads_of_all_processes() -> None:
    values = torch.randn(2, 6, 5)
    one = HeadGroup()
    for name in ("sum", "mean", "max"):
        wanted = getattr(one, name)(values)
        for found in spread(
            3, lambda r, h, name=name: getattr(h, name)(values[:, 2 * r : 2 * r + 2])
        ):
            torch.testing.assert_close(found, wanted)
    assert torch.equal(one.mean(values), values.mean(dim=1))
    assert one.reductions == 4


def test_all_take_the_first_process_s_decisions() -> None:
    decisions = [[torch.full((2, 3), rank), torch.arange(4) + rank] for rank in range(2)]
    for found in spread(2, lambda rank, heads: heads.agree(decisions[rank])):
        assert all(torch.equal(a, b) for a, b in zip(found, decisions[0], strict=True))
    assert spread(2, lambda rank, heads: heads.agree([])) == [[], []]


def test_a_matching_is_taken_from_the_first_process() -> None:
    """Also where the processes' hidden states differ and each would decide otherwise."""
    layout = VisionLayout.from_spans([[(2, (1, 6, 6))]], length=45)
    stage = Stage.preset("tome", windows=None, ratio=0.5)
    hidden = [torch.randn(1, 45, 8) for _ in range(2)]
    alone = [run_stage(h, layout, stage, stage.plan(layout)) for h in hidden]
    assert not torch.equal(alone[0].assignment.slot, alone[1].assignment.slot)
    together = spread(
        2, lambda r, heads: run_stage(hidden[r], layout, stage, stage.plan(layout), heads=heads)
    )
    for result in together:
        assert torch.equal(result.kept, alone[0].kept)
        assert torch.equal(result.assignment.slot, alone[0].assignment.slot)


def test_bytes_are_those_of_one_process_and_flops_those_of_all() -> None:
    whole = DecoderShape(2, 64, 4, 2, 16, 96, 200)
    half = DecoderShape(2, 64, 4, 2, 16, 96, 200, processes=2)
    assert 2 * half.kv_bytes_per_token == whole.kv_bytes_per_token
    assert half.prefill_flops([9, 5]) == whole.prefill_flops([9, 5])
