"""Answers of an engine on either model runner, in a process of its own: `test_model_state.py` runs it.

The second runner wants Triton kernels. Triton's interpreter runs them on a CPU (`TRITON_INTERPRET=1`);
vLLM's build for CPUs asks for a backend of that name, so an empty one stands in before vLLM is imported.

`tight` gives a KV cache of so many times the longest request; `asynchronous` schedules ahead of the
answers, the default on GPUs. `graphs` runs the steps of the second runner in the shapes that CUDA graphs
have: decoding in batches padded to the most requests, on metadata whose addresses must be those of the
capture, other steps padded to a multiple of tokens. The graph itself is played by the model run eagerly.
"""

from __future__ import annotations

import json
import os
import sys

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
AMPLE = 64 << 20
"""Bytes of the KV cache where nobody says how tight it is."""
REQUESTS = 8


def interpreted():
    """Let vLLM and the compiler of torch take Triton for one that serves CPUs."""
    import triton.backends
    from triton.backends.compiler import GPUTarget

    class Driver:
        @staticmethod
        def is_active():
            return True

        def get_current_target(self):
            return GPUTarget("cpu", 0, 1)

    class Compiler:
        def __init__(self, target):
            self.target = target

        @staticmethod
        def supports_target(target):
            return target.backend == "cpu"

        def hash(self):
            return "interpreter"

        def parse_options(self, options):
            return None

    triton.backends.backends["cpu"] = triton.backends.Backend(compiler=Compiler, driver=Driver)


def prompts():
    """Questions with one picture, with two, with none, of several lengths."""
    from lightkv.demo.scenes import held_out_scenes, prompt

    scenes = held_out_scenes(2, seed=5)
    made = [
        {"prompt": prompt(each.text), "multi_modal_data": {"image": scene.image}}
        for scene, questions in scenes
        for each in questions[:4]
    ]
    made.insert(2, {"prompt": "what color is"})
    first = prompt(scenes[0][1][0].text).replace("<image>", "<image> <image>")
    both = [scene.image for scene, _ in scenes]
    made.insert(5, {"prompt": first, "multi_modal_data": {"image": both}})
    return made


def in_shapes_of_graphs(runner):
    """Run each step as if graphs had been captured for it; returns what was met."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import set_forward_context
    from vllm.v1.worker.gpu import model_runner
    from vllm.v1.worker.gpu.attn_utils import build_slot_mappings_by_layer
    from vllm.v1.worker.gpu.cudagraph_utils import (
        BatchExecutionDescriptor,
        prepare_inputs_to_capture,
    )

    state, last, met = runner.model_state, {}, {"full": 0, "padded": 0, "piecewise": 0}
    captured = prepare_inputs_to_capture(
        REQUESTS,
        REQUESTS,
        state,
        runner.input_buffers,
        runner.block_tables,
        runner.attn_groups,
        runner.kv_cache_config,
        full_cudagraph=True,
        max_query_len=1,
    )
    addresses = {name: of(meta) for name, meta in captured.attn_metadata.items()}
    prepare = state.prepare_attn

    def remembered(batch, mode, tables, slots, *args, **kwargs):
        last["batch"], last["slots"] = batch, slots
        last["metadata"] = prepare(batch, mode, tables, slots, *args, **kwargs)
        return last["metadata"]

    def dispatch(manager, num_reqs, num_tokens, uniform_token_count, *args, **kwargs):
        if uniform_token_count == 1:
            met["full"] += 1
            met["padded"] += num_reqs < REQUESTS
            return BatchExecutionDescriptor(CUDAGraphMode.FULL, REQUESTS, REQUESTS, 1), None
        met["piecewise"] += 1
        padded = -(-num_tokens // 64) * 64
        return BatchExecutionDescriptor(CUDAGraphMode.PIECEWISE, padded, None), None

    def replay(descriptor):
        assert descriptor.cg_mode == CUDAGraphMode.FULL
        assert not state.serving.compresses
        batch, slots = last["batch"], last["slots"]
        assert {name: of(meta) for name, meta in last["metadata"].items()} == addresses
        for meta in last["metadata"].values():
            assert meta.seq_lens.shape == (REQUESTS,)
            assert not meta.seq_lens[batch.num_reqs :].any()
        assert (slots[:, batch.num_tokens :] == -1).all()
        embedded = state.encoder_runner.inputs_embeds[:REQUESTS]
        by_layer = build_slot_mappings_by_layer(slots, runner.kv_cache_config)
        with set_forward_context(
            last["metadata"], runner.vllm_config, num_tokens=REQUESTS, slot_mapping=by_layer
        ):
            positions = runner.input_buffers.positions[:REQUESTS]
            return runner.model(input_ids=None, positions=positions, inputs_embeds=embedded)

    state.prepare_attn = remembered
    model_runner.dispatch_cg_and_sync_dp = dispatch
    runner.cudagraph_manager.run_fullgraph = replay
    return met


def scheduled_asynchronously():
    """Keep asynchronous scheduling, which vLLM's platform for CPUs switches off."""
    from vllm.platforms.cpu import CpuPlatform

    checked = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):
        checked(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def cache_bytes(checkpoint, tokens):
    """Bytes of the KV cache of a request in float32, uncompressed."""
    with open(checkpoint / "config.json", encoding="utf-8") as file:
        text = json.load(file)["text_config"]
    wide = text["hidden_size"] // text["num_attention_heads"] * text["num_key_value_heads"]
    return tokens * text["num_hidden_layers"] * 2 * wide * 4


def of(meta):
    """Where a captured graph would read this layer's step."""
    tensors = meta.seq_lens, meta.query_start_loc, meta.block_table, meta.slot_mapping
    return [tensor.data_ptr() for tensor in tensors]


def answers(wanted):
    """Token ids of each answer and what was seen on the way."""
    from vllm import LLM, SamplingParams

    from lightkv.checkpoints.bundled import checkpoint_path
    from lightkv.integrations.vllm import engine_args, register

    register()
    if wanted.get("asynchronous"):
        scheduled_asynchronously()
    arguments = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 352,
        "max_num_seqs": REQUESTS,
        "limit_mm_per_prompt": {"image": 2},
        "block_size": 32,
        "max_num_batched_tokens": 1024,
        "kv_cache_memory_bytes": AMPLE,
        "disable_log_stats": True,
        **wanted.get("engine", {}),
    }
    checkpoint = checkpoint_path()
    if "tight" in wanted:
        longest = cache_bytes(checkpoint, arguments["max_model_len"])
        arguments["kv_cache_memory_bytes"] = int(longest * wanted["tight"])
    llm = LLM(**engine_args(str(checkpoint), **wanted["pipeline"]), **arguments)
    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    seen = {
        "runner": type(runner).__module__,
        "scheduler": type(core.scheduler).__name__,
        "blocks": core.scheduler.kv_cache_config.num_blocks,
        "preemptions": 0,
    }
    if wanted.get("graphs"):
        seen["graphs"] = in_shapes_of_graphs(runner)
    preempt = core.scheduler._preempt_request

    def counted(*args, **kwargs):
        seen["preemptions"] += 1
        return preempt(*args, **kwargs)

    core.scheduler._preempt_request = counted
    sampling = SamplingParams(temperature=0, max_tokens=wanted["tokens"], ignore_eos=True)
    outputs = llm.generate(prompts(), sampling, use_tqdm=False)
    seen["answers"] = [list(each.outputs[0].token_ids) for each in outputs]
    pool = core.scheduler.kv_cache_manager.coordinator.block_pool
    seen["left"] = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
    return seen


def main():
    """Read what is wanted from the command line, write what came to the file that it names."""
    wanted = json.loads(sys.argv[1])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It would win over what the engine is told.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(wanted["runner"] == 2))
    if wanted["runner"] == 2:
        interpreted()
    with open(wanted["out"], "w", encoding="utf-8") as file:
        json.dump(answers(wanted), file)


if __name__ == "__main__":
    main()
