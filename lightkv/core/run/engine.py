"""A pipeline bound to a decoder: the passes it begins, the plans it keeps, the reports it writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.recent import Recent
from lightkv.core.run.prefill import Prefill
from lightkv.core.run.profile import Profiler
from lightkv.core.run.report import HeldLayer, RunReport, build_report
from lightkv.core.run.reports import Reports
from lightkv.core.stage.plan import StagePlan

PLAN_CACHE = 64
"""Plans kept for layouts seen lately (a server sees few shapes again and again)."""
LAYOUT_CACHE = 16
"""Layouts kept, with the index tensors derived from them: 0.5 MB each at 65,536 tokens, for a table."""


class Engine:
    """A pipeline bound to a decoder, with its plans, reports and profiler.

    Args:
        pipeline: built for the decoder's depth.
        shape: sizes for counting.
        profile: measure times (synchronises a GPU around each role).
        trace: keep assignments and importances with each report (`RunReport.provenance`).
        check_finite: stop with `NumericError` when a stage meets NaN or infinity (reads a value on
            the host at each stage). Off, a NaN goes where it would have gone without compression. What
            components return is held against the contract of their role in every prefill; the values of
            it on a CPU always, elsewhere with this and in the first prefill.
        heads: the processes that share the attention heads, this one alone by default.
        reports: takes the report of each run.
        plans: how many plans are kept; a server of many lengths wants more.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        shape: DecoderShape,
        *,
        profile: bool = False,
        trace: bool = False,
        check_finite: bool = False,
        heads: HeadGroup | None = None,
        reports: Reports | None = None,
        plans: int = PLAN_CACHE,
    ) -> None:
        self.pipeline = pipeline
        self.shape = shape
        self.trace = trace
        self.check_finite = check_finite
        self.heads = heads or HeadGroup()
        self.profiler = Profiler(profile)
        self.reports = Reports(trace=trace) if reports is None else reports
        self.runs = 0
        self.owner: object | None = None
        self._plans: Recent[tuple[int, int, str, torch.device], StagePlan] = Recent(plans)
        self._layouts: Recent[str, VisionLayout] = Recent(LAYOUT_CACHE)

    def plan(
        self, placed: PlacedStage, layout: VisionLayout, device: torch.device, turn: int = 0
    ) -> StagePlan:
        """The plan of a stage (of a round of it) for a layout, from the cache if made before.

        Raises:
            ConfigError: windows that do not fit these images, with the stage named.
        """

        def made() -> StagePlan:
            # In inference mode, the tables could not serve a later pass that records gradients.
            with torch.inference_mode(False):
                return placed.plan(layout, turn).to(device)

        return self._plans.get((placed.number, turn, layout.key, device), made)

    def begin(self, layout: VisionLayout, drafts: int = 0) -> Prefill:
        """Start a forward pass whose vision tokens lie as `layout` says.

        The last `drafts` positions are guesses (assisted decoding) and no part of the prompt.

        Raises:
            ConfigError: none of the modalities that are to be compressed is there, but others are.
        """
        self.pipeline.check_prompt(layout)
        prefill = Prefill(
            self.pipeline,
            self._known(layout.with_drafts(drafts)),
            self.runs,
            self.plan,
            self.heads,
            self.profiler,
            self.check_finite,
            first=self.runs == 0,
        )
        self.runs += 1
        return prefill

    def _known(self, layout: VisionLayout) -> VisionLayout:
        """The layout with the same host data that was met before, with all that it derived."""
        if layout.index is not None:
            return layout
        return self._layouts.get(layout.key, lambda: layout)

    def finish(
        self,
        prefill: Prefill,
        cached: bool,
        *,
        keeps_all: bool = False,
        held: Sequence[HeldLayer] | None = None,
    ) -> RunReport:
        """End a forward pass and report it.

        Args:
            prefill: the pass.
            cached: whether it filled a cache.
            keeps_all: the cache stores what lies outside the windows of sliding layers too.
            held: what the cache of each layer holds; without it bytes are counted from the shape.
        """
        shape = self.shape.unwindowed() if keeps_all else self.shape
        report = build_report(prefill.record(), shape, held, cached=cached, traced=self.trace)
        self.profiler.close(report)
        self.reports.add(report)
        return report
