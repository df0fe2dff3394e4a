"""The cache site: the four roles on one layer's keys and values, once the layer has run in prefill.

A token is the vector of its key and value over all heads, `[B, N, Hₖᵥ·d + Hₖᵥ·dᵥ]`, so the stage
machinery works unchanged and merges both alike. Each layer decides on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from lightkv.core.assignment import Assignment
from lightkv.core.attention import TensorView
from lightkv.core.contracts import Component, StageContext
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import SampleLayout, View, VisionLayout
from lightkv.core.modality import MODALITIES, most_removed
from lightkv.core.needs import Need, Needs
from lightkv.core.prompt import prompt_index
from lightkv.core.stage.checks import Checks
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Readings, Stage, Timer, attention_needs, no_timer
from lightkv.core.stage.step import NO_WAIT, run_stage

Scope = Literal["vision", "all"]
"""Which cache entries take part: those of vision tokens, or text as well."""


@dataclass(frozen=True)
class CachedLayer:
    """What became of the entries of one layer.

    Attributes:
        before: layout of the tokens that the layer saw.
        layout: where the survivors are; under `scope: all` its "vision" tokens are all entries of
            rows with images.
        kept: `[B, N′]` where each entry was before.
        assignment: who flowed into whom, over all rounds.
        size: `[V′]` original tokens that each survivor holds.
        score: `[V]` importances of the first round, or None.
    """

    before: VisionLayout
    layout: VisionLayout
    kept: torch.Tensor
    assignment: Assignment
    size: torch.Tensor
    score: torch.Tensor | None

    @property
    def whole(self) -> bool:
        """Whether text entries took part."""
        return self.layout.samples is not self.before.samples

    def vision_counts(self) -> list[int]:
        """Vision entries left in each row; with text in play this waits for the device."""
        return [sum(row.values()) for row in self.counts_by_modality()]

    def counts_by_modality(self) -> list[dict[str, int]]:
        """Modality → its entries left, of each row; with text in play this waits for the device."""
        if not self.whole:
            return list(self.layout.counts_by_modality)
        if self.kept.is_meta:
            return self._expected()
        before, device = self.before, self.kept.device
        valid = self.layout.valid_mask(device)
        index = before.token_index(device)
        shown = np.concatenate([sample.tokens.modality for sample in before.samples])
        shown_here = torch.from_numpy(shown).to(device).index_select(0, index.origin)
        rows = before.batch_size * before.length
        kinds = torch.full((rows,), -1, dtype=torch.long, device=device)
        kinds = kinds.index_copy(0, index.flat, shown_here).view(before.batch_size, -1)
        left = kinds.gather(1, self.kept)
        counts = [((left == k) & valid).sum(dim=1).tolist() for k in range(len(MODALITIES))]
        return [
            {name: int(counts[MODALITIES.index(name)][row]) for name in sample.modalities}
            for row, sample in enumerate(before.samples)
        ]

    def _expected(self) -> list[dict[str, int]]:
        """The same where no tensor has values: each modality's share of what is left."""
        found = []
        for row, pad in enumerate(self.layout.pads):
            seen = self.before.counts_by_modality[row]
            entries = sum(seen.values()) + self.before.text_counts[row]
            left = self.layout.length - pad
            found.append({name: round(left * count / entries) for name, count in seen.items()})
        return found


def entries_layout(layout: VisionLayout, scope: Scope) -> VisionLayout:
    """Who takes part: the vision tokens, or (`all`) each row with images as one strip of tokens."""
    if scope == "vision":
        return layout
    samples = []
    for pad, images in zip(layout.pads, layout.original_counts, strict=True):
        strip = (1, 1, layout.length - pad)
        views = (View.from_span(pad, strip),) if images and strip[2] else ()
        samples.append(SampleLayout(views, pad))
    return VisionLayout(layout.length, tuple(samples))


def needs_keys_only(component: Component | None) -> bool:
    """Whether the cached keys are all that a component reads of the attention call."""
    return component is not None and attention_needs(component) == {Need.KEYS}


def reads_in_call(component: Component) -> bool:
    """Whether a component must read in the attention call; cached keys are read where they lie."""
    return not attention_needs(component) <= {Need.KEYS}


def needs_of_call(stage: Stage) -> Needs:
    """What a stage on the cache must read inside each layer's attention call."""
    return Needs().union(*(attention_needs(p) for p in stage.components if reads_in_call(p)))


@dataclass(frozen=True)
class CacheWork:
    """The compression of one layer's entries.

    Attributes:
        rounds: the stages to run, one after the other.
        plan: (round, layout) → its plan on the right device.
        checks: which values of what components return are looked at.
    """

    rounds: Sequence[Stage]
    plan: Callable[[int, VisionLayout], StagePlan]
    heads: HeadGroup
    timer: Timer = no_timer
    checks: Checks = NO_WAIT

    def run(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        before: VisionLayout,
        source: VisionLayout,
        readings: Readings,
        size: torch.Tensor | None,
        context: StageContext,
    ) -> tuple[torch.Tensor, torch.Tensor, CachedLayer] | None:
        """Compressed key and value `[B, Hₖᵥ, N′, d]`, or None if nothing is to be removed.

        Args:
            key, value: `[B, Hₖᵥ, N, d]` entries of this pass.
            before: layout of these entries.
            source: who takes part, see `entries_layout`.
            readings: what the components read in the layer's attention call.
            size: `[V]` original tokens that each token of `source` holds; ones if None.
            context: where the stage runs.
        """
        # Distances and norms are those of whole tokens, so under tensor parallelism each process
        # works on the heads of all and keeps its own.
        key, value = self.heads.all_heads(key), self.heads.all_heads(value)
        heads, width = key.shape[1], key.shape[-1]
        tokens = torch.cat([_flat(key), _flat(value)], dim=-1)
        kept = assignment = score = None
        layout = source
        for number, stage in enumerate(self.rounds):
            plan = self.plan(number, layout)
            if not plan.removes:
                continue
            keys = _unflat(tokens[..., : heads * width], heads)
            result = run_stage(
                tokens,
                layout,
                stage,
                plan,
                readings=self._with_keys(stage, readings, keys, layout),
                size=size,
                context=replace(context, round=number, ratio=most_removed(stage.ratio)),
                timer=self.timer,
                heads=self.heads,
                checks=self.checks,
            )
            tokens, layout, size = result.hidden_states, result.layout, result.size
            readings = _gathered(readings, result.kept)
            score = result.score if assignment is None else score
            kept = result.kept if kept is None else kept.gather(1, result.kept)
            step = result.assignment
            assignment = step if assignment is None else assignment.then(step)
        if kept is None or assignment is None or size is None:
            return None
        done = CachedLayer(before, layout, kept, assignment, size, score)
        keys, values = tokens[..., : heads * width], tokens[..., heads * width :]
        # Autocast may store keys in float32 beside values in half precision: each keeps its own.
        parts = (keys.to(key.dtype), values.to(value.dtype))
        own = [self.heads.own_heads(_unflat(each, heads)).contiguous() for each in parts]
        return own[0], own[1], done

    def _with_keys(
        self, stage: Stage, readings: Readings, keys: torch.Tensor, layout: VisionLayout
    ) -> Readings:
        """With what components read off the keys as they are in this round."""
        if not needs_keys_only(stage.scorer) and not needs_keys_only(stage.matcher):
            return readings
        own = self.heads.own_heads(keys.detach())
        view = TensorView(prompt_index(layout, keys.device), {Need.KEYS: own})
        view.heads = self.heads
        with torch.no_grad():
            return readings.with_call(stage, view, needs_keys_only)


def _flat(entries: torch.Tensor) -> torch.Tensor:
    """`[B, H, N, d]` → `[B, N, H·d]`."""
    return entries.transpose(1, 2).flatten(2)


def _unflat(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """`[B, N, H·d]` → `[B, H, N, d]`."""
    batch, length, _ = tokens.shape
    return tokens.reshape(batch, length, heads, -1).transpose(1, 2)


def _gathered(readings: Readings, kept: torch.Tensor) -> Readings:
    """What was read off attention, `[B, N]` or `[B, N, M]`, at the survivors of a round."""

    def at(values: torch.Tensor | None) -> torch.Tensor | None:
        if values is None:
            return None
        # A scorer that wraps others reads one number for each of them.
        index = kept.reshape(*kept.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))

    return replace(
        readings,
        scorer_attention=at(readings.scorer_attention),
        matcher_attention=at(readings.matcher_attention),
    )
