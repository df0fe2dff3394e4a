"""All that the author of a strategy or of an adapter imports.

    from lightkv.plugin import Matcher, MatchInput, PipelineSpec, Recipe, hookimpl

docs/writing-a-strategy.md and docs/writing-an-adapter.md tell how the names are used; what is not here
may move from one version to the next. What maps Hugging Face models is imported when first asked for,
because it brings transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightkv.core.attention import AttentionView, Block
from lightkv.core.contracts import (
    PROTECTED,
    Aggregator,
    AttentionScorer,
    Component,
    EmbeddingsInput,
    Matcher,
    MatchInput,
    Merged,
    MergeInput,
    Partition,
    Partitioner,
    PositionInput,
    PositionPolicy,
    ScoreInput,
    Scorer,
    StageContext,
    Surroundings,
    VisionScorer,
    WindowSpec,
)
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.encoder import VisionView
from lightkv.core.errors import (
    ConfigError,
    LayoutError,
    LightKVError,
    ModelError,
    NumericError,
    PluginError,
    SessionError,
    UnknownNameError,
)
from lightkv.core.heads import HeadGroup
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import (
    SEPARATOR,
    Bands,
    Groups,
    IntArray,
    SampleLayout,
    TokenTable,
    View,
    VisionLayout,
)
from lightkv.core.needs import Need, Needs, Source, needs_from
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.pipeline.stage_spec import StageSpec
from lightkv.core.plugins import build_component, checked_spec, get_preset, registry
from lightkv.core.prompt import PromptIndex, prompt_index
from lightkv.core.run.adapter import Adapter, Attachment
from lightkv.core.run.engine import Engine, Prefill
from lightkv.core.strict import Seed
from lightkv.core.transfer import to_device
from lightkv.strategies.components.aggregators import (
    Drop,
    WeightedMean,
    slot_numbers,
    slot_shares,
    weighted_sum,
)
from lightkv.strategies.components.bipartite import Bipartite
from lightkv.strategies.components.magnitude import length, power_of_two, unit
from lightkv.strategies.components.matcher_wrappers import MatcherWrapper
from lightkv.strategies.components.positions import Keep, Renumber
from lightkv.strategies.components.scorer_wrappers import ScorerWrapper
from lightkv.strategies.components.selection import (
    descending,
    first_largest,
    kept_only,
    ranks,
    rounded_keep,
    rows,
)
from lightkv.strategies.components.similarity import cosine, cosine_runs, most_similar
from lightkv.strategies.components.top_k import TopK
from lightkv.strategies.components.windows import Whole, Windows

if TYPE_CHECKING:
    from lightkv.adapters.families.llava import square_picture
    from lightkv.adapters.hf.adapter import HFAdapter
    from lightkv.adapters.hf.inputs import ModelInputs
    from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
    from lightkv.adapters.pictures.placing import (
        Picture,
        Pictures,
        PictureView,
        Placeholders,
        layout_of,
        runs,
        uniform,
    )
    from lightkv.adapters.remote.adapter import RemoteAdapter

_OF_ADAPTERS = {
    "Encoder": "hf.vision_tower",
    "HFAdapter": "hf.adapter",
    "ModelInputs": "hf.inputs",
    "Picture": "pictures.placing",
    "PictureView": "pictures.placing",
    "Pictures": "pictures.placing",
    "Placeholders": "pictures.placing",
    "RemoteAdapter": "remote.adapter",
    "clip_encoder": "hf.vision_tower",
    "layout_of": "pictures.placing",
    "patches_per_side": "hf.vision_tower",
    "runs": "pictures.placing",
    "square_picture": "families.llava",
    "uniform": "pictures.placing",
}
"""Name → module of `lightkv.adapters`, imported when first asked for."""

__all__ = [
    "PROTECTED",
    "SEPARATOR",
    "Adapter",
    "Aggregator",
    "Attachment",
    "AttentionScorer",
    "AttentionView",
    "Bands",
    "Bipartite",
    "Block",
    "Component",
    "ConfigError",
    "DecoderShape",
    "Drop",
    "EmbeddingsInput",
    "Encoder",
    "Engine",
    "Groups",
    "HFAdapter",
    "HeadGroup",
    "IntArray",
    "Keep",
    "LayoutError",
    "LightKVError",
    "MatchInput",
    "Matcher",
    "MatcherWrapper",
    "MergeInput",
    "Merged",
    "ModelError",
    "ModelInputs",
    "Need",
    "Needs",
    "NumericError",
    "Partition",
    "Partitioner",
    "Picture",
    "PictureView",
    "Pictures",
    "PipelineSpec",
    "Placeholders",
    "PluginError",
    "PositionInput",
    "PositionPolicy",
    "Prefill",
    "PromptIndex",
    "Recipe",
    "RemoteAdapter",
    "Renumber",
    "SampleLayout",
    "ScoreInput",
    "Scorer",
    "ScorerWrapper",
    "Seed",
    "SessionError",
    "Source",
    "StageContext",
    "StageSpec",
    "Surroundings",
    "TokenTable",
    "TopK",
    "UnknownNameError",
    "View",
    "VisionLayout",
    "VisionScorer",
    "VisionView",
    "WeightedMean",
    "Whole",
    "WindowSpec",
    "Windows",
    "build_component",
    "checked_spec",
    "clip_encoder",
    "cosine",
    "cosine_runs",
    "descending",
    "first_largest",
    "get_preset",
    "hookimpl",
    "kept_only",
    "layout_of",
    "length",
    "most_similar",
    "needs_from",
    "patches_per_side",
    "power_of_two",
    "prompt_index",
    "ranks",
    "registry",
    "rounded_keep",
    "rows",
    "runs",
    "slot_numbers",
    "slot_shares",
    "square_picture",
    "to_device",
    "uniform",
    "unit",
    "weighted_sum",
]


def __getattr__(name: str) -> Any:
    if name not in _OF_ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"lightkv.adapters.{_OF_ADAPTERS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
