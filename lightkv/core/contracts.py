"""The four roles of a compression method, and the position policy that rides along.

A component is a small class with pydantic fields. It works on *windows of equal size*: the engine
sorts the vision tokens of a batch into windows, groups windows of the same population into one
tensor `[G, n, D]`, and asks the component about that tensor; padding, ragged batches, several
images and sequence positions are not a component's business.

How many tokens a window keeps must follow from its population alone (`Matcher.keep`), so shapes are
known before the first layer runs. Inside a component use no `.item()`, `.tolist()`, `nonzero` or
boolean-mask indexing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ValidationError

from lightkv.core.attention import AttentionView
from lightkv.core.cells import Cells
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Bands, Groups, IntArray, SampleLayout, VisionLayout
from lightkv.core.needs import Needs, check_needs
from lightkv.core.prompt import PromptIndex, given_prompt
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.strict import Strict, is_whole, message_of


@dataclass(frozen=True)
class StageContext:
    """What a component may know of where it runs.

    Attributes:
        after_layer: decoder layers that saw the tokens uncompressed by this stage.
        stage: number of the stage in the schedule, from 0.
        run: number of the prefill in the session, from 0 (varies seeded noise between runs).
        num_layers: decoder layers of the model, or None outside a model.
        ratio: share of the current vision tokens that this stage removes. Where modalities have ratios
            of their own: that of the windows at hand, and for a scorer the largest.
        layer: the layer whose cache is compressed, or None for a stage between layers. Tokens are
            then vectors of key and value.
        round: number of the round, where a stage on the cache takes several.
    """

    after_layer: int = 0
    stage: int = 0
    run: int = 0
    num_layers: int | None = None
    ratio: float = 0.0
    layer: int | None = None
    round: int = 0


@dataclass(frozen=True)
class ScoreInput:
    """What a scorer sees.

    Attributes:
        hidden_states: `[B, N, D]` at the stage.
        vision: `[V]` flat positions (`sample · N + position`) of the current vision tokens.
        rank: `[V]` raster rank of each of them among the vision tokens of its sample.
        size: `[V]` how many original tokens each one holds.
        from_attention: what `read_attention` returned, or None.
        context: where the stage runs.
        from_encoder: `[V]` what `read_encoder` returned for these tokens, or None.
        window: `[V]` window of each token, numbered over the batch, or None outside a stage.
        counts: how many of the tokens each row of the batch has.
        layout: where vision, text and padding of the batch are, or None outside a stage.
    """

    hidden_states: torch.Tensor
    vision: torch.Tensor
    rank: torch.Tensor
    size: torch.Tensor
    from_attention: torch.Tensor | None
    context: StageContext
    from_encoder: torch.Tensor | None = None
    window: torch.Tensor | None = None
    counts: tuple[int, ...] = ()
    layout: VisionLayout | None = None

    @property
    def sample(self) -> torch.Tensor:
        """`[V]` row of each token."""
        return self.vision // self.hidden_states.shape[1]

    @property
    def cells(self) -> Cells:
        """`[V]` which cell of which frame each token shows, made for the scorer that asks.

        Raises:
            ConfigError: the input was made by hand, without a layout.
        """
        if self.layout is None:
            raise ConfigError(
                "this scorer asks for the frames of its tokens, and the input has no layout",
                field="layout",
                remedy="give ScoreInput the layout of its hidden states",
            )
        device = self.hidden_states.device
        return self.layout.cells(device).at(self.layout.token_index(device).origin)

    @property
    def prompt(self) -> PromptIndex:
        """Positions that are neither vision, padding nor drafts, made for the scorer that asks.

        Raises:
            ConfigError: the input was made by hand, without a layout.
        """
        if self.layout is None:
            raise ConfigError(
                "this scorer asks for the prompt's positions, and the input has no layout",
                field="layout",
                remedy="give ScoreInput the layout of its hidden states",
            )
        return given_prompt(self.layout, self.hidden_states.device)


@dataclass(frozen=True)
class EmbeddingsInput:
    """What enters the decoder.

    Attributes:
        hidden_states: `[B, N, D]` embeddings of text and vision.
        vision: `[B, N]` true at vision tokens.
        prompt: the other tokens.
        last_vision: `[B]` position of the last vision token of each row, −1 if it has none.
    """

    hidden_states: torch.Tensor
    vision: torch.Tensor
    prompt: PromptIndex
    last_vision: torch.Tensor

    @classmethod
    def of(cls, hidden_states: torch.Tensor, layout: VisionLayout) -> EmbeddingsInput:
        """Of `[B, N, D]` that lie as `layout` says; its drafts are no prompt."""
        device = hidden_states.device
        vision = layout.vision_mask(device)
        places = torch.arange(vision.shape[1], device=device)
        last = torch.where(vision, places, -1).amax(dim=1)
        return cls(hidden_states, vision, given_prompt(layout, device), last)


@dataclass(frozen=True)
class Surroundings:
    """The whole sequence around the windows, for matchers that compare with the text.

    Attributes:
        hidden_states: `[B, N, D]`.
        prompt: the positions that are not vision.
        from_attention: `[B, N, M]` what the matcher's `read_attention` returned, or None.
    """

    hidden_states: torch.Tensor
    prompt: PromptIndex
    from_attention: torch.Tensor | None


@dataclass(frozen=True)
class MatchInput:
    """A batch of windows of equal population.

    Attributes:
        tokens: `[G, n, D]` hidden states in raster order.
        keep: survivors that each window must have.
        score: `[G, n]` importances, or None if the pipeline has no scorer.
        size: `[G, n]` original tokens that each token holds.
        from_attention: `[G, n, M]` what the matcher's `read_attention` returned, gathered, or None.
        context: where the stage runs.
        from_encoder: `[G, n, M]` what the matcher's `read_encoder` returned, gathered, or None.
        inner: `[G, n]` inner window of each token where windows share a budget, ascending, or None.
        row: `[G]` sample of each window.
        around: the sequence around, if `needs_surroundings`.
        cells: `[G, n]` which cell of which frame each token shows, if `needs_cells`.
    """

    tokens: torch.Tensor
    keep: int
    score: torch.Tensor | None
    size: torch.Tensor
    from_attention: torch.Tensor | None
    context: StageContext
    from_encoder: torch.Tensor | None = None
    inner: torch.Tensor | None = None
    row: torch.Tensor | None = None
    around: Surroundings | None = None
    cells: Cells | None = None


@dataclass(frozen=True)
class MergeInput:
    """Windows with their matching.

    Attributes:
        tokens: `[G, n, D]`.
        target: `[G, n]` as returned by the matcher.
        survivors: `[G, k]` in-window indices of the survivors, ascending.
        score: `[G, n]` importances or None.
        size: `[G, n]` original tokens that each token holds.
        context: where the stage runs.
        from_encoder: `[G, n, M]` what the aggregator's `read_encoder` returned, gathered, or None.
        cells: `[G, n]` which cell of which frame each token shows, if `needs_cells`.
    """

    tokens: torch.Tensor
    target: torch.Tensor
    survivors: torch.Tensor
    score: torch.Tensor | None
    size: torch.Tensor
    context: StageContext
    from_encoder: torch.Tensor | None = None
    cells: Cells | None = None


@dataclass(frozen=True)
class Merged:
    """What an aggregator returns.

    Attributes:
        tokens: `[G, k, D]` the survivors, or None if they stay as they are.
        share: `[G, n]` share of each token in its survivor (0 if it leaves nothing behind).
    """

    tokens: torch.Tensor | None
    share: torch.Tensor


@dataclass(frozen=True)
class PositionInput:
    """Positions around a stage.

    Attributes:
        positions: `[A, B, N]` rotary positions before (A axes).
        kept: `[B, N′]` where each position of the new sequence was before.
        pads, old_pads: `[B]` left padding of the rows after and before the stage.
        vision: `[V′]` flat places of the survivors in the new batch.
        slot: `[V]` slot of each token; `share` `[V]` its share; `before` `[V]` its flat place
            before the stage.
    """

    positions: torch.Tensor
    kept: torch.Tensor
    pads: torch.Tensor
    old_pads: torch.Tensor
    vision: torch.Tensor
    slot: torch.Tensor
    share: torch.Tensor
    before: torch.Tensor


Role = Literal["partitioner", "scorer", "matcher", "aggregator", "positions"]
ROLES: tuple[Role, ...] = ("partitioner", "scorer", "matcher", "aggregator", "positions")

WindowSpec = int | dict[Literal["space", "time"], int] | None
"""Windows per side (`4` = 4 × 4 in each frame), `{space: 4, time: 2}`, or None."""

MOST_WINDOWS = 65_536
"""Windows per side: more than any grid has rows or columns, or any cache entries."""

PROTECTED = -1
"""Window label of a token that no component may touch in this stage."""


class Component(Strict):
    """What all roles share: a name, a source, validated parameters.

    Class attributes:
        name: how pipelines and YAML refer to the component.
        source: paper (and equation or section) that the component comes from.
        requires: what it needs of attention, vision encoder and embeddings.
    """

    role: ClassVar[Role]
    name: ClassVar[str]
    source: ClassVar[str] = ""
    requires: ClassVar[Needs] = frozenset()

    def __init__(self, /, **data: Any) -> None:
        check_component(type(self))
        super().__init__(**data)

    @classmethod
    def _refused(cls, error: ValidationError) -> ConfigError:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(cls.model_fields) or "none"
        return ConfigError(
            message_of(first),
            field=f"{cls.role} {cls.name!r}" + (f", {where}" if where else ""),
            value=None if first["type"] == "missing" else first.get("input"),
            remedy=f"its parameters are: {known}",
        )

    def needs(self) -> Needs:
        """What this instance needs; override where a parameter decides."""
        return self.requires

    def spec(self) -> dict[str, Any]:
        """`{"name": …, parameter: value}`, the entry that reproduces this component."""
        return {"name": self.name, **self.model_dump(mode="json", exclude_defaults=True)}


RENAMED_HOOKS: dict[str, dict[str, str]] = {
    "scorer": {
        "start": "read_embeddings",
        "look": "read_encoder",
        "observe": "read_attention",
    },
    "matcher": {"look": "read_encoder", "observe": "read_attention"},
    "aggregator": {"look": "read_encoder"},
}
"""role → hook of lightkv 0.1 → its name since. Under the old one nobody would call it."""


def check_component(cls: type[Component]) -> None:
    """Refuse a class whose hooks would not be called, or whose needs are none.

    Raises:
        ConfigError: a hook under its name of 0.1, or something in `requires` that is no `Need`.
    """
    where = f"{cls.role} {getattr(cls, 'name', cls.__name__)!r}"
    for old, new in RENAMED_HOOKS.get(cls.role, {}).items():
        if callable(getattr(cls, old, None)):
            raise ConfigError(
                f"the hook {old!r} of lightkv 0.1 is called {new!r} now, and under its old name nobody "
                "would call it",
                field=where,
                value=cls.__name__,
                remedy=f"rename the method to {new!r}",
            )
    check_needs(getattr(cls, "requires", frozenset()), f"{where}, requires")


def wrong_windows(windows: object) -> str | None:
    """What is wrong with a `windows` entry, None if nothing is."""
    sides = windows.values() if isinstance(windows, dict) else [1 if windows is None else windows]
    if not all(is_whole(side) and 1 <= side <= MOST_WINDOWS for side in sides):
        return f"windows per side must be whole numbers from 1 to {MOST_WINDOWS:,}"
    return None


def window_sides(windows: WindowSpec) -> tuple[int, int]:
    """Windows per side over space and over time, 0 where that is not said."""
    if isinstance(windows, dict):
        return windows.get("space", 1), windows.get("time", 0)
    return windows or 0, 0


# -- who may interact with whom ---------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """Windows of one sample.

    Attributes:
        label: window of each token, `PROTECTED` for tokens that stay as they are. `[V₀]` by
            original token when `by == "cell"`; `[V]` by current raster rank when `by == "rank"`.
        by: what `label` is indexed by.
        known: `[V₀]` group of each original token whose population is known afterwards; the
            windows themselves when None (the usual case for `by == "cell"`).
        bands: per view the bands that the windows are products of, if they are.
        inner: `[V₀]` for `by == "cell"`: who may interact inside a window. The window then shares
            one budget; populations of inner windows need not be known.
    """

    label: IntArray
    by: Literal["cell", "rank"] = "cell"
    known: IntArray | None = None
    bands: tuple[Bands | None, ...] | None = None
    inner: IntArray | None = None


class Partitioner(Component, ABC):
    """Splits the vision tokens of a sample into windows, from geometry alone."""

    role: ClassVar[Role] = "partitioner"

    @abstractmethod
    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        """Windows for one sample.

        Args:
            sample: geometry of the original tokens.
            groups: populations that are known at this point.
            windows: the stage's `windows` entry.

        Raises:
            ConfigError: the windows do not fit the grid or cut through known groups.
        """


# -- how important is each token --------------------------------------------------------------


class Scorer(Component, ABC):
    """Gives each vision token one non-negative importance ξ.

    Class attributes:
        needs_prompt: whether `score` looks at the text (`ScoreInput.prompt`), so that a host which
            prefills a prompt in pieces has to bring all of it at once.
    """

    role: ClassVar[Role] = "scorer"
    needs_prompt: ClassVar[bool] = False

    def read_embeddings(self, inputs: EmbeddingsInput) -> torch.Tensor | None:
        """Called before the first layer if `Need.EMBEDDINGS` is declared.

        Returns:
            what `read_attention` finds as `attention.from_embeddings`.
        """
        return None

    def read_encoder(self, vision: VisionView) -> torch.Tensor | None:
        """Called once the encoder has run, if something of it is needed.

        Returns:
            `[V₀]`, one value for each original vision token.
        """
        return None

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        """Called inside the attention call of the layer before the stage, if something of it is needed.

        Returns:
            `[B, N]`, one value for each position of this forward (only vision positions are used).
        """
        return None

    @abstractmethod
    def score(self, inputs: ScoreInput) -> torch.Tensor:
        """`[V]` importances ξ ≥ 0 of the current vision tokens."""

    def flops(self, sizes: StageSizes) -> Flops:
        """FLOPs for one sample, beyond those of the attention that it needs: none unless overridden.

        What a stage needs of the attention call is computed once for all its components, so the stage
        counts it.
        """
        return Flops()


class AttentionScorer(Scorer, ABC):
    """A scorer whose importance is wholly read off the attention call."""

    @abstractmethod
    def read_attention(self, attention: AttentionView) -> torch.Tensor: ...

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        if inputs.from_attention is None:
            raise ConfigError(
                "this scorer reads the attention of the layer before the stage",
                field=f"scorer {self.name!r}",
                remedy="use after_layer >= 1, or pass attention tensors to compress_stage",
            )
        return inputs.from_attention.flatten().index_select(0, inputs.vision)


class VisionScorer(Scorer, ABC):
    """A scorer whose importance is wholly read off the vision encoder."""

    @abstractmethod
    def read_encoder(self, vision: VisionView) -> torch.Tensor: ...

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        if inputs.from_encoder is None:
            raise ConfigError(
                "this scorer reads the vision encoder, and nothing of it was recorded",
                field=f"scorer {self.name!r}",
                remedy="run it in a session on a model whose adapter offers the encoder, or pass "
                "`vision` to compress_stage",
            )
        return inputs.from_encoder


# -- who flows into whom ----------------------------------------------------------------------


class Matcher(Component, ABC):
    """Decides which tokens of a window survive and into which survivor the others flow.

    Class attributes:
        max_ratio: largest share that one stage can remove (½ where each survivor takes one partner).
        needs_score: whether a scorer is needed to decide.
        needs_surroundings: whether the whole sequence is needed (`MatchInput.around`).
        needs_cells: whether it asks which cell of which frame tokens show (`MatchInput.cells`).
        knows_inner: whether it keeps to inner windows where windows share a budget.
        drops: whether every token that does not survive is dropped, and none flows into another.
    """

    role: ClassVar[Role] = "matcher"
    max_ratio: ClassVar[float] = 1.0
    needs_score: ClassVar[bool] = False
    needs_surroundings: ClassVar[bool] = False
    needs_cells: ClassVar[bool] = False
    knows_inner: ClassVar[bool] = False
    drops: ClassVar[bool] = False

    @property
    def dynamic(self) -> bool:
        """Whether budgets follow from values (`count`), at the price of a wait for the device."""
        return False

    def count(self, inputs: MatchInput) -> torch.Tensor:
        """`[G]` survivors of each window, 0 to `inputs.keep`; asked if `dynamic`."""
        raise ConfigError(
            "its budget is dynamic, and `count` does not say how many tokens survive",
            field=f"matcher {self.name!r}",
            remedy="override count(inputs) to return [G] whole numbers, one for each window",
        )

    def keep(self, population: int, ratio: float) -> int:
        """How many of `population` tokens survive when the share `ratio` is to go."""
        return population - int(np.floor(population * ratio + 1e-9))

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        """Like `Scorer.read_attention`, but `[B, N, M]`: a metric of M numbers for each position."""
        return None

    def read_encoder(self, vision: VisionView) -> torch.Tensor | None:
        """Like `Scorer.read_encoder`, but `[V₀, M]`: a metric of M numbers for each original token."""
        return None

    @abstractmethod
    def match(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, n]` for each token the in-window index of the survivor it flows into, −1 if dropped.

        Exactly `inputs.keep` tokens of each window flow into themselves: the survivors.
        """

    def flops(self, sizes: StageSizes) -> Flops:
        """FLOPs for one sample: those of comparing half of each window with the other half.

        Override it in a matcher that compares other tokens, or none.
        """
        return sizes.similarities()


# -- what does the survivor become ------------------------------------------------------------


class Aggregator(Component, ABC):
    """Computes what a survivor becomes.

    Class attributes:
        convex: whether survivors are convex combinations of the tokens of their slot, so that
            the conservation law can be checked.
        needs_score: whether a scorer is needed.
        needs_cells: whether it asks which cell of which frame tokens show (`MergeInput.cells`).
        space: `vision`: it merges what enters the projector, and the model's projector is applied
            to the result (before the first decoder layer only).
    """

    role: ClassVar[Role] = "aggregator"
    convex: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    needs_cells: ClassVar[bool] = False
    space: ClassVar[Literal["decoder", "vision"]] = "decoder"

    def read_encoder(self, vision: VisionView) -> torch.Tensor | None:
        """Like `Matcher.read_encoder`."""
        return None

    @abstractmethod
    def merge(self, inputs: MergeInput) -> Merged:
        """Survivors and shares."""

    def flops(self, sizes: StageSizes) -> Flops:
        """FLOPs for one sample: those of a weighted sum over all its vision tokens.

        Override it in an aggregator that does more.
        """
        return sizes.weighted_sum()


# -- which position does a survivor carry -----------------------------------------------------


class PositionPolicy(Component, ABC):
    """What rotary position the tokens after a stage carry.

    Class attributes:
        decode: `original`: generated tokens go on at the position that follows the uncompressed
            prompt; `contiguous`: in each layer they follow the compressed prompt of that layer.
    """

    role: ClassVar[Role] = "positions"
    decode: ClassVar[Literal["original", "contiguous"]] = "original"

    @abstractmethod
    def positions(self, inputs: PositionInput) -> torch.Tensor | None:
        """`[A, B, N′]` new positions (fractions are legal), or None to keep each token's own."""
