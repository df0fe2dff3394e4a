"""Answers of an engine in a process of its own, for `test_parallel.py`.

    python tests/vllm/own_process.py '{"engine": {…}, "pipeline": {…}, "out": FILE}'

`pipeline` is None for vLLM's own model. `streamed` asks an asynchronous engine and notes each piece;
`asynchronous` schedules ahead of the answers, as engines on GPUs do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from second_runner import scheduled_asynchronously

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def arguments(wanted):
    """Of the engine."""
    from lightkv.integrations.vllm import engine_args

    own = {"model": wanted["model"], "enable_prefix_caching": False}
    if wanted["pipeline"] is not None:
        own = engine_args(wanted["model"], **wanted["pipeline"])
    return {
        **own,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 2048,
        "block_size": 32,
        "limit_mm_per_prompt": {"image": 2},
        "kv_cache_memory_bytes": 64 << 20,
        "disable_log_stats": True,
        **wanted["engine"],
    }


def prompts(count):
    """Questions with one picture, with two, with none."""
    from compare import engine_prompt, questions

    return [engine_prompt(*each) for each in questions(count)]


def answers(wanted):
    """Of all prompts at once."""
    from vllm import LLM, SamplingParams
    from watched import Watch

    if wanted.get("asynchronous"):
        scheduled_asynchronously()
    llm, seen = LLM(**arguments(wanted)), {}
    core, watch = llm.llm_engine.engine_core, None
    if hasattr(core, "engine_core"):  # in this process
        scheduler = core.engine_core.scheduler
        watch, seen["scheduler"] = Watch(scheduler), type(scheduler).__name__
    tokens = wanted["tokens"]
    sampling = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens)
    outputs = llm.generate(prompts(wanted["count"]), sampling, use_tqdm=False)
    seen["answers"] = [list(output.outputs[0].token_ids) for output in outputs]
    if watch is not None:
        seen["watch"] = watch.to_dict()
    return seen


async def streamed(wanted):
    """Of all prompts at once, piece by piece; every third request is aborted after its first piece."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(wanted)))
    tokens, kind = wanted["tokens"], RequestOutputKind.DELTA
    sampling = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, output_kind=kind)

    async def ask(number, prompt, stops):
        pieces = []
        async for output in llm.generate(prompt, sampling, request_id=str(number)):
            pieces.append(list(output.outputs[0].token_ids))
            if stops:
                break
        return pieces

    try:
        asked = prompts(wanted["count"])
        first = await asyncio.gather(*(ask(i, p, i % 3 == 2) for i, p in enumerate(asked)))
        again = await asyncio.gather(*(ask(-1 - i, p, False) for i, p in enumerate(asked)))
        return {"first": first, "again": again}
    finally:
        llm.shutdown()


def main():
    """Read what is wanted from the command line, write what came to the file that it names."""
    wanted = json.loads(sys.argv[1])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    found = asyncio.run(streamed(wanted)) if wanted.get("streamed") else answers(wanted)
    with open(wanted["out"], "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
