"""Settings of an engine under which compressed layers would be wrong or never run: refused at its start.

Each row names the setting as vLLM's config has it. A setting that is not there is a release of vLLM
that lightkv does not know.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightkv.core.errors import CompatibilityError, ConfigError


def _above(limit: int) -> Callable[[Any], bool]:
    return lambda value: value is not None and value > limit


def _given(value: Any) -> bool:
    return value is not None


@dataclass(frozen=True)
class Refusal:
    """A setting that lightkv does not work under.

    Attributes:
        setting: dotted name below the engine's config.
        refused: whether a value is.
        what: cannot work, and why.
        remedy: what does.
    """

    setting: str
    refused: Callable[[Any], bool]
    what: str
    remedy: str


REFUSALS = (
    Refusal(
        "cache_config.enable_prefix_caching",
        bool,
        "which vision tokens survive depends on the question behind them, so blocks behind the first "
        "stage are no function of a prefix",
        "add --no-enable-prefix-caching",
    ),
    Refusal(
        "speculative_config",
        _given,
        "a draft model would read the cache by positions of the uncompressed prompt",
        "leave --speculative-config out",
    ),
    Refusal(
        "kv_transfer_config",
        _given,
        "connectors move blocks by positions of the uncompressed prompt",
        "leave --kv-transfer-config and --kv-offloading-size out",
    ),
    Refusal(
        "ec_transfer_config",
        _given,
        "the grid of a picture that another process encoded is not known here",
        "leave --ec-transfer-config out",
    ),
    Refusal(
        "parallel_config.pipeline_parallel_size",
        _above(1),
        "a stage changes how many rows go from one layer to the next, and pipeline ranks agree on them "
        "beforehand",
        "use --tensor-parallel-size instead of --pipeline-parallel-size",
    ),
    Refusal(
        "parallel_config.decode_context_parallel_size",
        _above(1),
        "context parallelism spreads a request's blocks by positions of the uncompressed prompt",
        "leave --decode-context-parallel-size out",
    ),
    Refusal(
        "parallel_config.prefill_context_parallel_size",
        _above(1),
        "context parallelism splits the prompt that a stage has to see as a whole",
        "leave --prefill-context-parallel-size out",
    ),
    Refusal(
        "parallel_config.enable_dbo",
        bool,
        "a batch that is split into halves would need a step for each",
        "leave --enable-dbo out",
    ),
    Refusal(
        "parallel_config.ubatch_size",
        _above(1),
        "a batch that is split would need a step for each part",
        "leave --ubatch-size out",
    ),
    Refusal(
        "lora_config",
        _given,
        "LoRA kernels map rows to adapters by the uncompressed batch",
        "merge the adapter into the weights, and leave --enable-lora out",
    ),
    Refusal(
        "model_config.runner_type",
        lambda value: value != "generate",
        "a pooled embedding would be taken over rows of dropped tokens, which are zero",
        "serve the model for generation",
    ),
    Refusal(
        "model_config.enable_prompt_embeds",
        bool,
        "nobody says where vision tokens lie among given embeddings",
        "leave --enable-prompt-embeds out",
    ),
    Refusal(
        "scheduler_config.long_prefill_token_threshold",
        _above(0),
        "the part of a prompt up to its last picture has to be computed in one step",
        "leave --long-prefill-token-threshold out",
    ),
    Refusal(
        "scheduler_config.disable_hybrid_kv_cache_manager",
        bool,
        "each segment of layers needs a group of KV cache blocks of its own",
        "leave --disable-hybrid-kv-cache-manager out",
    ),
    Refusal(
        "cache_config.kv_sharing_fast_prefill",
        bool,
        "layers that skip the prompt have no queries to score by",
        "leave --kv-sharing-fast-prefill out",
    ),
    Refusal(
        "model_config.multimodal_config.mm_processor_cache_type",
        lambda value: value == "shm",
        "the scheduler does not see the grids of pictures that go to the workers through shared memory",
        "use --mm-processor-cache-type lru",
    ),
    Refusal(
        "model_config.multimodal_config.video_pruning_rate",
        _above(0),
        "tokens that vLLM prunes before the decoder leave a picture without its grid",
        "leave --video-pruning-rate out: lightkv compresses videos too",
    ),
    Refusal(
        "compilation_config.cudagraph_mode",
        lambda mode: mode is not None and mode.mixed_mode().name == "FULL",
        "a captured graph of prefills would run in place of the stages",
        "use -cc.cudagraph_mode=FULL_AND_PIECEWISE: decoding is captured whole, prefills are not",
    ),
    Refusal(
        "compilation_config.mode",
        lambda mode: mode is not None and mode.name == "STOCK_TORCH_COMPILE",
        "stock torch.compile would trace the whole model, stages and all, for one shape",
        "use -cc.mode=3 (vLLM's own compiler, the default) or --enforce-eager",
    ),
    Refusal(
        "diffusion_config",
        _given,
        "diffusion decoding visits positions out of order",
        "serve the model autoregressively",
    ),
)
"""Refused settings. Tested one by one, on configs that vLLM makes."""

BREAKABLE = "VLLM_USE_BREAKABLE_CUDAGRAPH"
"""A switch of vLLM that its config does not hold."""


def check_engine(vllm_config: Any) -> None:
    """Refuse an engine's config.

    Raises:
        ConfigError: the first setting that does not work, with the flag to change.
        CompatibilityError: a config without one of the settings.
    """
    if getattr(vllm_config.model_config, "multimodal_config", None) is None:
        raise ConfigError(
            "the model takes no pictures, so there are no vision tokens to compress",
            field="model",
            value=getattr(vllm_config.model_config, "model", None),
            remedy="leave 'lightkv' out of additional_config",
        )
    if os.environ.get(BREAKABLE) == "1":
        raise ConfigError(
            "breakable CUDA graphs record the whole model, and a step that compresses has shapes of its "
            "own",
            field=BREAKABLE,
            value="1",
            remedy=f"set {BREAKABLE}=0: decoding is captured all the same",
        )
    for refusal in REFUSALS:
        value = read_setting(vllm_config, refusal.setting)
        if refusal.refused(value):
            raise ConfigError(
                refusal.what, field=refusal.setting, value=value, remedy=refusal.remedy
            )


def read_setting(vllm_config: Any, setting: str) -> Any:
    """The value of a dotted name.

    Raises:
        CompatibilityError: there is none.
    """
    value = vllm_config
    for name in setting.split("."):
        if not hasattr(value, name):
            raise CompatibilityError(
                f"vLLM's config has no {setting!r}",
                field="vllm",
                remedy="install a release that lightkv was tested with (docs/vllm.md)",
            )
        value = getattr(value, name)
    return value
