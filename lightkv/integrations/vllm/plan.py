"""What each segment of decoder layers holds of a request, known before its first layer runs.

A *segment* is a run of decoder layers between two stages; segment 0 sees the prompt as it is. Budgets
are static, so how many tokens a segment holds follows from where the vision tokens lie and what they
show. The scheduler and every worker make the same plan from the same options, and compare its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import lightkv
from lightkv.core.errors import ConfigError
from lightkv.core.layout import SampleLayout, VisionLayout
from lightkv.core.needs import Need, Source, listed, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.recent import Recent
from lightkv.core.stage.stage import Stage
from lightkv.integrations.vllm.blocks import segment_tokens

KNOWN = 1024
"""Prompts kept by where their vision tokens lie; an entry takes a few kB."""
LAYOUTS = 256
"""Layouts kept for the device: with their index tables, some 50 kB for 1,000 tokens."""

Spans = tuple[Hashable, ...]
"""Places and geometry of each picture of a prompt."""


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known ahead of a request whose prompt holds vision tokens.

    Attributes:
        spans: its pictures, by which equal prompts are known.
        sample: their geometry.
        prompt: tokens of its prompt.
        piece: first tokens that have to be computed in one step.
        removed: tokens that each segment does not hold once these are computed.
    """

    spans: Spans
    sample: SampleLayout
    prompt: int
    piece: int
    removed: tuple[int, ...]

    def tokens(self, segment: int, computed: int) -> int:
        """Cache entries of a segment when the first `computed` tokens of the request are there."""
        return computed - self.removed[segment] if computed >= self.piece else computed

    @property
    def vision(self) -> int:
        """Vision tokens of the prompt."""
        return int(self.sample.positions.size)


class ServingPlan:
    """A pipeline cut into segments.

    Args:
        pipeline: built for the decoder's depth.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.cuts = tuple(sorted(pipeline.between))
        self._removed: Recent[tuple[Spans, bool], tuple[int, ...]] = Recent(KNOWN)
        self._layouts: Recent[Hashable, VisionLayout] = Recent(LAYOUTS)

    @property
    def segments(self) -> int:
        """Segments, those without a layer of their own included (0 before a stage after 0 layers)."""
        return len(self.cuts) + 1

    def segment(self, layer: int) -> int:
        """The segment that a decoder layer belongs to."""
        return sum(cut <= layer for cut in self.cuts)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers of each segment."""
        of = [self.segment(layer) for layer in range(self.pipeline.num_layers)]
        return tuple(of.count(segment) for segment in range(self.segments))

    @cached_property
    def digest(self) -> str:
        """Equal digests mean equal counts for every request."""
        facts = lightkv.__version__, self.pipeline.num_layers, self.pipeline.to_yaml()
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    @cached_property
    def reads_text(self) -> bool:
        """Whether a stage looks at text, so that the whole prompt has to be there at once."""
        stages = [placed.stage for placed in self.pipeline.between.values()]
        return any(
            stage.needs - {Need.KEYS}
            or stage.matcher.needs_surroundings
            or (stage.scorer is not None and stage.scorer.needs_prompt)
            for stage in stages
        )

    def entry(self, spans: Spans, sample: SampleLayout, prompt: int) -> Entry:
        """What is known of a prompt.

        Args:
            spans: its pictures, by which it is looked up.
            sample: their geometry.
            prompt: its tokens.

        Raises:
            ConfigError: a picture whose grid the windows of a stage do not fit.
        """
        end = int(sample.positions[-1]) + 1
        # A vision token in the last place survives, so whether there is one is a part of the key.
        length = end + int(end < prompt)
        removed = self._removed.get((spans, end == prompt), lambda: self._lacking(sample, length))
        return Entry(spans, sample, prompt, self.piece(sample, prompt), removed)

    def piece(self, sample: SampleLayout, prompt: int) -> int:
        """First tokens of a prompt that have to be computed in one step."""
        return prompt if self.reads_text else min(prompt, int(sample.positions[-1]) + 2)

    def _lacking(self, sample: SampleLayout, length: int) -> tuple[int, ...]:
        """Tokens that each segment lacks of a prompt of `length`."""
        held = segment_tokens(self.pipeline, VisionLayout(length, (sample,)))
        if 0 in self.pipeline.between:
            held = length, *held  # of segment 0, which then has no layers
        return tuple(length - tokens for tokens in held)

    def layout(self, entry: Entry, count: int, copies: int) -> VisionLayout:
        """The layout of `copies` equal prompts, of which `count` tokens each are computed at once.

        What stands behind the prompt (tokens generated before a preemption) is none of it.
        """
        drafts = max(0, count - entry.prompt)
        return self._layouts.get(
            (entry.spans, count, drafts, copies),
            lambda: VisionLayout(count, (entry.sample,) * copies).with_drafts(drafts),
        )


def check_pipeline(pipeline: Pipeline, field: str) -> None:
    """Refuse what an engine with paged blocks cannot do, before a model is loaded.

    Raises:
        ConfigError: what it is, and what would work instead.
    """
    for placed in pipeline.stages:
        if placed.removes:
            problem = _unservable(pipeline, placed.stage, placed.site)
            if problem is not None:
                what, remedy = problem
                raise ConfigError(what, field=field, value=pipeline.spec.name, remedy=remedy)


def _unservable(pipeline: Pipeline, stage: Stage, site: str) -> tuple[str, str] | None:
    encoder = needs_from(stage.needs, Source.ENCODER)
    if pipeline.modalities:
        return (
            f"shares for {' and '.join(pipeline.modalities)} alone would end a request that has none of "
            "these in the middle of a batch",
            "give one retention for all vision tokens",
        )
    if site == "cache":
        return (
            "a stage on the cache of each layer would have to move entries between blocks",
            "use a preset between layers, such as lightkv, fastv or tome",
        )
    if stage.matcher.dynamic:
        return (
            f"matcher {stage.matcher.name!r} decides from values how many tokens survive, and blocks "
            "are given out before",
            "use its static budget, or another matcher",
        )
    if encoder or stage.aggregator.space == "vision":
        return (
            f"a stage reads the vision encoder ({listed(encoder)}), whose attention the engine's "
            "encoder cache does not keep",
            "use a scorer of the decoder, such as last-token or prompt-attention",
        )
    if pipeline.positions.name != "keep":
        return (
            f"the position policy {pipeline.positions.name!r} renumbers, and the engine counts "
            "positions by the uncompressed prompt",
            'add "positions": "keep" to the options',
        )
    if pipeline.spec.proportional:
        return (
            "sizes of merged tokens cannot be added to the logits of the engine's attention kernels",
            'add "proportional": false to the options',
        )
    return None
