"""All that the author of a strategy or of an adapter imports.

    from lightkv.plugin import Matcher, MatchInput, PipelineSpec, Recipe, hookimpl

docs/writing-a-strategy.md and docs/writing-an-adapter.md tell how the names are used; what is not here
may move from one version to the next. What maps Hugging Face models is imported when first asked for,
because it brings transformers.
"""

# ruff: noqa: I001 - to sort them, ruff would take names of one module apart
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightkv.core.attention import AttentionView as AttentionView, Block as Block
from lightkv.core.cells import Cells as Cells
from lightkv.core.contracts import (
    PROTECTED as PROTECTED,
    Aggregator as Aggregator,
    AttentionScorer as AttentionScorer,
    Component as Component,
    EmbeddingsInput as EmbeddingsInput,
    Matcher as Matcher,
    MatchInput as MatchInput,
    Merged as Merged,
    MergeInput as MergeInput,
    Partition as Partition,
    Partitioner as Partitioner,
    PositionInput as PositionInput,
    PositionPolicy as PositionPolicy,
    ScoreInput as ScoreInput,
    Scorer as Scorer,
    StageContext as StageContext,
    Surroundings as Surroundings,
    VisionScorer as VisionScorer,
    WindowSpec as WindowSpec,
)
from lightkv.core.cost.flops import DecoderShape as DecoderShape
from lightkv.core.cost.layers import (
    Entry as Entry,
    LayerShape as LayerShape,
    State as State,
)
from lightkv.core.encoder import VisionView as VisionView
from lightkv.core.errors import (
    ConfigError as ConfigError,
    LayoutError as LayoutError,
    LightKVError as LightKVError,
    ModelError as ModelError,
    NumericError as NumericError,
    PluginError as PluginError,
    SessionError as SessionError,
    UnknownNameError as UnknownNameError,
)
from lightkv.core.heads import HeadGroup as HeadGroup
from lightkv.core.hookspecs import hookimpl as hookimpl
from lightkv.core.layout import (
    SEPARATOR as SEPARATOR,
    Bands as Bands,
    Groups as Groups,
    IntArray as IntArray,
    SampleLayout as SampleLayout,
    TokenTable as TokenTable,
    View as View,
    VisionLayout as VisionLayout,
)
from lightkv.core.needs import (
    Need as Need,
    Needs as Needs,
    Source as Source,
    needs_from as needs_from,
)
from lightkv.core.pipeline.pipeline import PipelineSpec as PipelineSpec, Recipe as Recipe
from lightkv.core.pipeline.places import Places as Places
from lightkv.core.pipeline.stage_spec import StageSpec as StageSpec
from lightkv.core.plugins import (
    build_component as build_component,
    checked_spec as checked_spec,
    get_preset as get_preset,
    registry as registry,
)
from lightkv.core.prompt import PromptIndex as PromptIndex, prompt_index as prompt_index
from lightkv.core.run.adapter import Adapter as Adapter, Attachment as Attachment
from lightkv.core.run.engine import Engine as Engine
from lightkv.core.run.prefill import Prefill as Prefill
from lightkv.core.run.refusal import Refusal as Refusal, Standing as Standing
from lightkv.core.run.refusing import RefusingAdapter as RefusingAdapter
from lightkv.core.sizes import Flops as Flops, StageSizes as StageSizes
from lightkv.core.strict import Seed as Seed
from lightkv.core.transfer import to_device as to_device
from lightkv.strategies.components.aggregators import (
    Drop as Drop,
    WeightedMean as WeightedMean,
    slot_numbers as slot_numbers,
    slot_shares as slot_shares,
    weighted_sum as weighted_sum,
)
from lightkv.strategies.components.bipartite import Bipartite as Bipartite
from lightkv.strategies.components.magnitude import (
    length as length,
    power_of_two as power_of_two,
    unit as unit,
)
from lightkv.strategies.components.matcher_wrappers import MatcherWrapper as MatcherWrapper
from lightkv.strategies.components.positions import Keep as Keep, Renumber as Renumber
from lightkv.strategies.components.scorer_wrappers import ScorerWrapper as ScorerWrapper
from lightkv.strategies.components.selection import (
    descending as descending,
    first_largest as first_largest,
    kept_only as kept_only,
    ranks as ranks,
    rounded_keep as rounded_keep,
    rows as rows,
)
from lightkv.strategies.components.similarity import (
    cosine as cosine,
    cosine_runs as cosine_runs,
    most_similar as most_similar,
)
from lightkv.strategies.components.top_k import TopK as TopK
from lightkv.strategies.components.windows import Whole as Whole, Windows as Windows

if TYPE_CHECKING:
    from lightkv.adapters.families.llava import square_picture as square_picture
    from lightkv.adapters.hf.adapter import HFAdapter as HFAdapter
    from lightkv.adapters.hf.inputs import ModelInputs as ModelInputs
    from lightkv.adapters.hf.vision_tower import (
        Encoder as Encoder,
        clip_encoder as clip_encoder,
        patches_per_side as patches_per_side,
    )
    from lightkv.adapters.pictures.any_resolution import unpadded_grid as unpadded_grid
    from lightkv.adapters.pictures.placing import (
        Picture as Picture,
        Pictures as Pictures,
        PictureView as PictureView,
        Placeholders as Placeholders,
        layout_of as layout_of,
        recording as recording,
        runs as runs,
        uniform as uniform,
    )
    from lightkv.adapters.pictures.tiles import tiled_pictures as tiled_pictures
    from lightkv.adapters.remote.adapter import RemoteAdapter as RemoteAdapter

_OF_ADAPTERS = {
    "families.llava": "square_picture",
    "hf.adapter": "HFAdapter",
    "hf.inputs": "ModelInputs",
    "hf.vision_tower": "Encoder clip_encoder patches_per_side",
    "pictures.any_resolution": "unpadded_grid",
    "pictures.placing": "Picture PictureView Pictures Placeholders layout_of recording runs uniform",
    "pictures.tiles": "tiled_pictures",
    "remote.adapter": "RemoteAdapter",
}
"""Module of `lightkv.adapters` → its names, imported when first asked for."""
_LATER = {name: module for module, names in _OF_ADAPTERS.items() for name in names.split()}

_TOOLS = ("Any", "TYPE_CHECKING", "annotations", "importlib")
__all__ = sorted(  # type checkers know what is public by `import name as name`
    name for name in (*globals(), *_LATER) if not name.startswith("_") and name not in _TOOLS
)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"lightkv.adapters.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return __all__
