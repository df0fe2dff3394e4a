"""The tensors of one stage at one size, what is run on them, and a clock for its roles.

Used by `stage.py` on the host and by `gpu_stages.py` on a device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dense
import torch

from lightkv import Stage, VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.prompt import prompt_index
from lightkv.core.stage.stage import Readings
from lightkv.core.stage.step import Timer, run_stage

GRIDS = {576: (1, 24, 24), 2304: (1, 48, 48), 9216: (1, 96, 96), 65536: (64, 32, 32)}
"""Vision tokens → (frames, rows, columns): images, and a video of 64 frames."""
PER_SIDE = {576: 2, 2304: 3, 9216: 6, 65536: 2}
"""The windows that `population: 256` comes to, for the dense loop (its tokens prove it)."""
POPULATION, TEXT, BEFORE, RATIO = 256, 75, 35, 0.5
ROLES = ("guidance", "scoring", "matching", "aggregation", "other")
FITS = 4 * 2**30
"""Bytes that the dense attention matrix may take."""


@dataclass
class Case:
    """Tensors of one size and what is run on them."""

    vision: int
    hidden: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor

    @classmethod
    def make(
        cls, vision: int, heads: int, width: int, dtype: torch.dtype, device: str = "cpu"
    ) -> Case:
        """Random hidden states, query and key."""
        torch.manual_seed(vision)
        shape = (1, heads, vision + TEXT, width // heads)
        hidden = torch.randn(1, vision + TEXT, width, dtype=dtype, device=device)
        query, key = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(vision, hidden, query, key)

    def __post_init__(self) -> None:
        self.layout = VisionLayout.from_spans(
            [[(BEFORE, GRIDS[self.vision])]], length=self.hidden.shape[1]
        )
        windows = {"name": "windows", "population": POPULATION}
        self.stage = Stage.preset("lightkv", ratio=RATIO, partitioner=windows)
        self.plan = self.stage.plan(self.layout).to(self.hidden.device)
        self.images = [[(BEFORE, GRIDS[self.vision])]]

    def guidance(self) -> torch.Tensor:
        """What lightkv does inside the attention call."""
        prompt = prompt_index(self.layout, self.hidden.device)
        scaling = self.query.shape[-1] ** -0.5
        assert self.stage.scorer is not None
        score = self.stage.scorer.read_attention(
            QueryKeyView(self.query, self.key, scaling, prompt)
        )
        assert score is not None
        return score

    def ours(self, clock: Timer) -> torch.Tensor:
        """`[1, N′, D]` by lightkv."""
        with clock("total"):
            with clock("guidance"):
                score = self.guidance()
            result = run_stage(
                self.hidden,
                self.layout,
                self.stage,
                self.plan,
                readings=Readings(score),
                timer=clock,
            )
        return result.hidden_states

    def dense(self, clock: Timer, score: torch.Tensor | None = None) -> torch.Tensor:
        """`[1, N′, D]` by the plain implementation; with `score` it skips the attention matrix."""
        with clock("total"):
            if score is None:
                with clock("guidance"):
                    places = torch.arange(self.hidden.shape[1])
                    image = (places >= BEFORE) & (places < BEFORE + self.vision)
                    score = dense.guidance(self.query, self.key, places[~image])
            per_side = PER_SIDE[self.vision]
            with clock("windows"):
                return dense.stage(self.hidden, score, self.images, per_side, RATIO)

    @property
    def matrix_fits(self) -> bool:
        return dense.matrix_bytes(*self.query.shape[1:3], self.query.dtype) <= FITS


class Clock:
    """Seconds of wall clock and of this process's CPU, for each role."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, role: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[role] = self.wall.get(role, 0.0) + time.perf_counter() - wall
        self.cpu[role] = self.cpu.get(role, 0.0) + time.process_time() - cpu

    def roles(self) -> dict[str, float]:
        """Wall clock with what lies between the roles as `other`."""
        parts = {role: taken for role, taken in self.wall.items() if role != "total"}
        return {**parts, "other": self.wall["total"] - sum(parts.values())}
