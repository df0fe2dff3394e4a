"""From an engine's configuration to the plan: the same in the scheduler and in every worker."""

from __future__ import annotations

from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.families import family_of
from lightkv.integrations.vllm.options import KEY, Options, read_options
from lightkv.integrations.vllm.plan import ServingPlan, check_pipeline
from lightkv.integrations.vllm.refusals import check_engine
from lightkv.integrations.vllm.schedules import serving_pipeline

DEFAULT_BLOCK_SIZE = 16
"""vLLM's own on GPUs."""


def options_of(vllm_config: Any) -> Options:
    """What the user asked of lightkv.

    Raises:
        ConfigError: nothing, or what cannot be read.
    """
    options = read_options(vllm_config.additional_config)
    if options is None:
        raise ConfigError(
            "classes of lightkv are named, but nothing says what they are to do",
            field="additional_config",
            value=vllm_config.additional_config,
            remedy=f'add {{"{KEY}": {{"pipeline": "lightkv", "retention": 0.55}}}}',
        )
    return options


def plan_of(vllm_config: Any) -> ServingPlan:
    """The plan of an engine.

    Raises:
        ConfigError: options that cannot work on this decoder or in this engine.
        ModelError: a model that is not mapped.
    """
    check_engine(vllm_config)
    pipeline = pipeline_of(
        options_of(vllm_config),
        vllm_config.model_config.hf_config,
        _weighed_block_size(vllm_config.cache_config),
    )
    return ServingPlan(pipeline)


def pipeline_of(
    options: Options,
    config: Any,
    block_size: int = DEFAULT_BLOCK_SIZE,
    field: str = f"additional_config.{KEY}.pipeline",
) -> Pipeline:
    """What an engine runs of the options on a model.

    Args:
        options: what the user asked of lightkv.
        config: of transformers, of the whole model.
        block_size: tokens of a block.
        field: what an error calls the pipeline.

    Raises:
        ConfigError: options that cannot work on this decoder or in an engine.
        ModelError: a model that is not mapped.
    """
    first = family_of(config).min_layer(config)
    layers = config.get_text_config().num_hidden_layers
    pipeline = serving_pipeline(
        options.pipeline, layers, block_size=block_size, min_layer=first, **options.changes
    )
    check_pipeline(pipeline, field)
    return pipeline


def _weighed_block_size(cache_config: Any) -> int:
    """Tokens of a block, as far as the user fixed it.

    Otherwise vLLM may change it between the moments when worker and scheduler make their plans.
    """
    chosen = cache_config.user_specified_block_size
    return int(cache_config.block_size) if chosen else DEFAULT_BLOCK_SIZE
