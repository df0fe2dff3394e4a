"""Every refusal at start, on configs that vLLM itself makes: no model is loaded for any of them."""

from types import SimpleNamespace

import pytest
from vllm.config import CompilationMode, CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs

from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.core.errors import CompatibilityError, ConfigError, ModelError
from lightkv.integrations.vllm.engine_args import engine_args
from lightkv.integrations.vllm.refusals import BREAKABLE, REFUSALS, check_engine
from lightkv.integrations.vllm.setup import plan_of

FLAGS = {
    "cache_config.enable_prefix_caching": {"enable_prefix_caching": True},
    "speculative_config": {
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": 2,
            "prompt_lookup_max": 2,
        }
    },
    "kv_transfer_config": {
        "kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    },
    "ec_transfer_config": {
        "ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": "ec_both"}
    },
    "parallel_config.pipeline_parallel_size": {"pipeline_parallel_size": 2},
    "lora_config": {"enable_lora": True, "max_lora_rank": 8},
    "model_config.enable_prompt_embeds": {"enable_prompt_embeds": True},
    "scheduler_config.long_prefill_token_threshold": {"long_prefill_token_threshold": 128},
    "scheduler_config.disable_hybrid_kv_cache_manager": {"disable_hybrid_kv_cache_manager": True},
    "model_config.multimodal_config.mm_processor_cache_type": {"mm_processor_cache_type": "shm"},
    "model_config.multimodal_config.video_pruning_rate": {"video_pruning_rate": 0.5},
}
"""Setting → arguments of the engine that give it a value that is refused."""
SET_BY_HAND = {
    "parallel_config.decode_context_parallel_size": 2,
    "parallel_config.prefill_context_parallel_size": 2,
    "parallel_config.enable_dbo": True,
    "parallel_config.ubatch_size": 2,
    "cache_config.kv_sharing_fast_prefill": True,
    "model_config.runner_type": "pooling",
    "diffusion_config": object(),
    "compilation_config.cudagraph_mode": CUDAGraphMode.FULL,
    "compilation_config.mode": CompilationMode.STOCK_TORCH_COMPILE,
}
"""Settings that vLLM's CPU build does not take from arguments on this model."""


def config(pipeline="lightkv", *, own=(), **arguments):
    """The config of an engine on the bundled model; `own` are options of lightkv."""
    given = engine_args(str(checkpoint_path()), pipeline, **dict(own))
    given = {**given, "dtype": "float32", "max_model_len": 512, **arguments}
    return EngineArgs(**given).create_engine_config()


def test_every_setting_has_a_test():
    assert {*FLAGS, *SET_BY_HAND} == {refusal.setting for refusal in REFUSALS}


def test_a_plain_engine_is_served():
    assert plan_of(config()).segments == 4


@pytest.mark.parametrize("setting", FLAGS)
def test_refused_by_flag(setting):
    with pytest.raises(ConfigError) as caught:
        plan_of(config(**FLAGS[setting]))
    assert caught.value.field == setting
    assert caught.value.remedy


@pytest.mark.parametrize("setting", SET_BY_HAND)
def test_refused_by_value(setting):
    made = config()
    *path, name = setting.split(".")
    holder = made
    for step in path:
        holder = getattr(holder, step)
    object.__setattr__(holder, name, SET_BY_HAND[setting])
    with pytest.raises(ConfigError) as caught:
        check_engine(made)
    assert caught.value.field == setting


def test_graphs_of_the_whole_model_are_refused(monkeypatch):
    made = config()
    monkeypatch.setenv(BREAKABLE, "1")
    with pytest.raises(ConfigError, match="breakable"):
        check_engine(made)
    monkeypatch.setenv(BREAKABLE, "0")
    check_engine(made)


def test_an_unknown_release_is_refused():
    made = config()
    bare = SimpleNamespace(**{**vars(made), "cache_config": SimpleNamespace()})
    with pytest.raises(CompatibilityError, match="enable_prefix_caching"):
        check_engine(bare)


@pytest.mark.parametrize(
    ("pipeline", "options", "message"),
    [
        ("lightkv", {"retention": 0.01}, "reach"),
        ("lightkv", {"retention": 1.5}, "share"),
        ("no-such-preset", {}, "preset"),
        ("fastvlm", {}, "fastv"),
        ("tome-cache", {}, "cache"),
        ("sparsevlm", {}, "renumber|values"),
        ("fastervlm", {}, "encoder"),
        ("pyramiddrop", {}, "renumbers"),
        ("lightkv", {"proportional": True}, "sizes"),
    ],
)
def test_options_that_cannot_work(pipeline, options, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(config(pipeline, own=options))


@pytest.mark.parametrize(
    "given", [3, ["lightkv"], {"pipline": "lightkv"}, {"retention": float("nan")}, {}, None]
)
def test_options_that_do_not_parse(given):
    made = config()
    if given == {}:
        made.additional_config = {}
    else:
        made.additional_config = {"lightkv": given}
    with pytest.raises(ConfigError):
        plan_of(made)


def test_a_model_without_vision_is_refused():
    made = config()
    made.model_config.multimodal_config = None
    with pytest.raises(ConfigError, match="no pictures"):
        plan_of(made)


def test_a_family_that_is_not_mapped_is_refused_with_the_list():
    made = config()
    made.model_config.hf_config.model_type = "paligemma"
    with pytest.raises(ModelError, match="Qwen2VLForConditionalGeneration"):
        plan_of(made)
