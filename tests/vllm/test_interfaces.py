"""Everything that lightkv reads of vLLM by name, compared with the release that is installed.

`contact.py` names it, and an engine compares it at its start. A change of vLLM shows here first.
"""

import ast
import importlib
import inspect
import textwrap
import tomllib
from pathlib import Path

import pytest

from lightkv.core.errors import CompatibilityError
from lightkv.integrations.vllm import contact
from lightkv.integrations.vllm.contact import Fields, Function
from lightkv.integrations.vllm.engine_args import engine_args

PARTS = {
    name: getattr(contact, name)
    for name in ("FRONT", "SCHEDULER", "WORKER", "FIRST_RUNNER", "SECOND_RUNNER")
}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "each",
    [pytest.param(each, id=each.name) for part in PARTS.values() for each in part],
)
def test_is_what_lightkv_expects(each):
    assert each.problem() is None


def test_the_installed_release_is_the_tested_one():
    assert contact.installed().split("+")[0] == contact.TESTED


def test_the_extra_installs_the_tested_series():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    major, minor = contact.SERIES
    assert extras["vllm"] == [f"vllm>={major}.{minor},<{major}.{minor + 1}"]


@pytest.mark.parametrize("release", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.4.post1"])
def test_the_series_is_served(release):
    contact.check_release(release)


@pytest.mark.parametrize("release", ["0.31.0", "0.33.0", "0.3.2", "1.32.0", "0.33.0rc1", "dev"])
def test_other_releases_are_refused_by_name(release):
    with pytest.raises(CompatibilityError, match=r"0\.32\.0") as caught:
        contact.check_release(release)
    assert caught.value.value == release
    assert "0.32" in caught.value.remedy


def test_under_another_release_who_asks_for_lightkv_is_refused(monkeypatch):
    from types import SimpleNamespace

    from lightkv.integrations.vllm.hook import EngineHook

    model = SimpleNamespace(
        hf_config=SimpleNamespace(architectures=["LlavaForConditionalGeneration"])
    )
    asks = SimpleNamespace(model_config=model, additional_config={"lightkv": "lightkv"})
    asks_not = SimpleNamespace(model_config=model, additional_config={})
    monkeypatch.setattr(contact, "SERIES", (0, 31))
    EngineHook.verify_and_update_config(asks_not)
    with pytest.raises(CompatibilityError, match="tested with"):
        EngineHook.verify_and_update_config(asks)
    with pytest.raises(CompatibilityError, match="tested with"):
        engine_args("anything")


def test_a_release_that_asks_nobody_is_told_of(monkeypatch, caplog):
    import logging
    import sys
    from types import ModuleType

    from lightkv.integrations.vllm.hook import register_hooks

    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    bare = ModuleType("vllm.model_executor.models.config")
    monkeypatch.setitem(sys.modules, bare.__name__, bare)
    register_hooks(["LlavaForConditionalGeneration"])
    assert "does nothing" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (Function("v1.core.sched.scheduler", "Scheduler.no_such"), "has no Scheduler.no_such"),
        (Function("v1.no_such_module", "Anything"), "has no Anything"),
        (
            Function("v1.core.sched.scheduler", "Scheduler.add_request", ("request", "when")),
            r"takes \(request\), expected \(request, when",
        ),
        (Fields("v1.kv_cache_interface", "KVCacheConfig", ("num_blocks", "gone")), "has no gone"),
    ],
)
def test_what_changed_is_refused_and_named(changed, message):
    with pytest.raises(CompatibilityError, match=message):
        contact.check(PARTS["SCHEDULER"], (changed,))


OVERRIDES = {
    "cache.SegmentSpec": ["merge", "is_uniform_with_collection", "prefix_cacheable"],
    "cache.SegmentManager": ["get_num_blocks_to_allocate", "allocate_new_blocks"],
    "scheduler.CountingScheduler": [
        "add_request",
        "has_requests",
        "update_from_output",
        "_free_blocks",
        "_try_schedule_encoder_inputs",
    ],
    "processors.LlavaProcessor": ["get_dummy_inputs", "apply"],
    "worker.Worker": ["init_device", "get_kv_cache_spec"],
    "worker.Runner": ["_prepare_inputs", "_get_slot_mappings", "execute_model"],
    "model_state.SegmentModelState": [
        "__init__",
        "add_request",
        "remove_request",
        "prepare_attn",
        "postprocess_state",
    ],
    "models.LightKVLlava": ["forward"],
}
"""Our classes → methods in the place of vLLM's."""


@pytest.mark.parametrize(
    ("home", "method"),
    [(home, method) for home, methods in OVERRIDES.items() for method in methods],
)
def test_each_override_replaces_a_method_and_takes_what_it_took(home, method):
    module, name = home.split(".")
    ours = getattr(importlib.import_module(f"lightkv.integrations.vllm.{module}"), name)
    theirs = next(
        (
            base
            for base in ours.__mro__
            if base.__module__.startswith("vllm.") and method in vars(base)
        ),
        None,
    )
    assert theirs is not None, f"vLLM has no {method} any more"
    if isinstance(inspect.getattr_static(theirs, method), property):
        return
    expected = inspect.signature(getattr(theirs, method)).parameters
    has = inspect.signature(getattr(ours, method)).parameters
    kinds = {each.kind for each in has.values()}
    for named in has.values():
        if named.kind is named.POSITIONAL_OR_KEYWORD:
            assert named.name in expected
    # What vLLM adds has to go on to its own method.
    missing = [name for name in expected if name not in has]
    assert not missing or kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


ATTRIBUTES = {
    "v1.core.sched.scheduler.Scheduler": [
        "kv_cache_manager",
        "encoder_cache_manager",
        "max_num_scheduled_tokens",
        "finished_req_ids_dict",
    ],
    "v1.core.kv_cache_manager.KVCacheManager": ["coordinator"],
    "v1.core.kv_cache_coordinator.KVCacheCoordinator": ["single_type_managers"],
    "v1.core.single_type_kv_cache_manager.SingleTypeKVCacheManager": ["kv_cache_spec"],
    "v1.core.encoder_cache_manager.EncoderCacheManager": ["cache_size"],
    "v1.request.Request": [
        "request_id",
        "client_index",
        "mm_features",
        "num_prompt_tokens",
        "prompt_embeds",
        "resumable",
        "sampling_params",
        "trace_headers",
    ],
    "v1.worker.gpu_worker.Worker": ["use_v2_model_runner"],
    "v1.worker.worker_base.WorkerBase": ["vllm_config", "device"],
    "v1.worker.gpu_model_runner.GPUModelRunner": ["input_batch", "requests"],
    "v1.worker.gpu_input_batch.InputBatch": ["block_table", "num_computed_tokens_cpu"],
    "v1.worker.block_table.BlockTable": ["block_size"],
    "v1.attention.backend.AttentionMetadataBuilder": ["kv_cache_spec", "vllm_config"],
    "model_executor.layers.attention.Attention": [
        "attn_backend",
        "layer_name",
        "head_size",
        "impl",
    ],
    "model_executor.models.llama.LlamaDecoderLayer": ["self_attn"],
    "model_executor.models.llama.LlamaAttention": ["attn"],
    "model_executor.models.llama.LlamaModel": ["layers", "norm"],
    "model_executor.models.qwen2.Qwen2Attention": ["attn"],
    "model_executor.models.qwen2.Qwen2Model": ["norm"],
    "model_executor.models.qwen3.Qwen3Attention": ["attn"],
}
"""Classes of vLLM → attributes that they give themselves."""


@pytest.mark.parametrize("home", ATTRIBUTES)
def test_attributes_are_set(home):
    module, name = home.rsplit(".", 1)
    found = contact.found_in(module, name)
    source = ast.parse(textwrap.dedent(inspect.getsource(found)))
    stores = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    properties = {name for name in ATTRIBUTES[home] if hasattr(found, name)}
    assert set(ATTRIBUTES[home]) <= stores | properties
