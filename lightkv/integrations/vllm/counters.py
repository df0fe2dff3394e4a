"""lightkv's figures at vLLM's metrics endpoint, counted in the process that requests come to.

With several API servers prometheus_client keeps them in files, as it does vLLM's own, and the endpoint
adds them up.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge

from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.savings import PromptSavings

_PROMPTS = (
    "A prompt with pictures counts once, when they are accepted: however many answers it gets, and "
    "also if vLLM refuses its parameters afterwards."
)
HELP = {
    "lightkv:vision_tokens": f"Vision tokens of prompts, before compression. {_PROMPTS}",
    "lightkv:vision_tokens_kept": (
        "Vision tokens of prompts that the KV cache holds after the prefill, as the mean over the "
        f"decoder's layers. {_PROMPTS}"
    ),
    "lightkv:kv_blocks_saved": (
        "Blocks of the KV cache that prompts take less after their prefill than if all layers were one "
        "group that holds every token, in blocks of this engine's pool. Layers that pad a group count "
        "as taken, a prompt that saves nothing counts 0, and generated tokens are left out. "
        f"{_PROMPTS}"
    ),
}
PLAN = "lightkv:plan_info"


class Counters:
    """The figures of one model, 0 until a prompt is accepted.

    Args:
        model_config: vLLM's.
        pipeline: that the engine runs.
    """

    def __init__(self, model_config: Any, pipeline: Pipeline) -> None:
        name = model_config.served_model_name
        name = name[0] if isinstance(name, list) else name
        self._counters = [counter.labels(model_name=name) for counter in _counters()]
        _plan().labels(
            model_name=name,
            pipeline=pipeline.spec.name,
            retention=f"{pipeline.retention:.4g}",
            stages=stages(pipeline),
        ).set(1)

    def add(self, prompt: PromptSavings) -> None:
        """Count a prompt with pictures."""
        saved = max(0.0, prompt.uncompressed - prompt.blocks)
        for counter, value in zip(self._counters, (prompt.vision, prompt.kept, saved), strict=True):
            counter.inc(value)


def stages(pipeline: Pipeline) -> str:
    """The decoder layers that stages stand behind, as `10, 20, 30`."""
    return ", ".join(str(layer) for layer in sorted(pipeline.between))


@cache
def _counters() -> list[Counter]:
    return [Counter(name, text, labelnames=["model_name"]) for name, text in HELP.items()]


@cache
def _plan() -> Gauge:
    return Gauge(
        PLAN,
        "What lightkv runs in this engine: always 1. Retention is planned, before rounding to whole "
        "tokens, and stages are the decoder layers that tokens are removed behind.",
        labelnames=["model_name", "pipeline", "retention", "stages"],
        multiprocess_mode="mostrecent",
    )
