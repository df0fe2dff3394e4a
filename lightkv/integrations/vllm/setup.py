"""From an engine's configuration to the plan: the same in the scheduler and in every worker."""

from __future__ import annotations

from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.options import KEY, Options, read_options
from lightkv.integrations.vllm.plan import ServingPlan, check_pipeline


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
    """
    options = options_of(vllm_config)
    layers = vllm_config.model_config.hf_text_config.num_hidden_layers
    pipeline = Pipeline.build(options.pipeline, layers, **options.changes)
    check_pipeline(pipeline, f"additional_config.{KEY}.pipeline")
    return ServingPlan(pipeline, vllm_config.cache_config.block_size)
