"""`lightkv plan --trace`: the real model class on the meta device, run once with a real session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lightkv.checkpoints.describe import find_on_meta, text_on_meta
from lightkv.checkpoints.library_errors import brief
from lightkv.checkpoints.load import quiet_libraries
from lightkv.checkpoints.published import Description
from lightkv.core.cost.counting import Cost, count_savings
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, ModelError
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Source, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.adapter import Adapter, find_adapter
from lightkv.core.run.tracing import HeldBytes, Trace, trace


@dataclass(frozen=True)
class Comparison:
    """What was counted beside what a run did: (name, counted, measured), vanilla and compressed.

    `equal` tells whether the model's own FLOPs and all bytes agree to the last digit.
    """

    model: str
    vanilla: tuple[tuple[str, int, int], ...]
    compressed: tuple[tuple[str, int, int], ...]
    traces: tuple[Trace, Trace]

    @property
    def equal(self) -> bool:
        rows = (*self.vanilla, *self.compressed)
        return all(counted == measured for name, counted, measured in rows if name != COMPRESSION)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {"model": self.model, "equal": self.equal}
        for side in ("vanilla", "compressed"):
            rows = getattr(self, side)
            found[side] = {name: {"counted": c, "measured": m} for name, c, m in rows}
        found["role_flops"] = self.traces[1].role_flops
        return found


PREFILL, DECODE, KV = "prefill FLOPs", "first decode step FLOPs", "KV bytes after the prefill"
COMPRESSION = "compression FLOPs (matrix products)"


def compare(described: Description, pipeline: Pipeline, layout: VisionLayout) -> Comparison:
    """Run the model of a description on the meta device, vanilla and compressed.

    Raises:
        ModelError: no class of transformers can be made or run with these sizes.
        ConfigError: bytes of a cached value that no dtype has.
    """
    if any(needs_from(placed.stage.needs, Source.ENCODER) for placed in pipeline.stages):
        raise ModelError(
            "the strategy reads the vision encoder, which a run on embeddings leaves out",
            field="--trace",
            value=pipeline.spec.name,
            remedy="count it without --trace",
        )
    from lightkv.adapters.hf import contact

    dtype = dtype_of(described.shape.bytes_per_value)
    adapter, model = meta_model(described)
    model = model.eval().to(dtype)
    # The class knows what a table of sizes may not, such as windows of sliding layers.
    shape = replace(adapter.shape(model.config), bytes_per_value=dtype.itemsize)
    run = runner(model, shape, dtype)
    contact.run_experts_by_shape(model)
    try:
        traces = [trace(model, adapter, each, shape, layout, run) for each in (None, pipeline)]
    except NotImplementedError as error:
        raise ModelError(
            f"this model cannot run without values ({brief(error, 120)})",
            field="--trace",
            value=type(model).__name__,
            remedy="count it without --trace",
        ) from error
    # A second token is one decode step; the cache is read before it.
    after, step = (count_savings(pipeline, shape, layout, new_tokens) for new_tokens in (1, 2))
    vanilla = _rows(after.vanilla, step.vanilla, traces[0])
    compressed = _rows(after.compressed, step.compressed, traces[1])
    products = COMPRESSION, after.compressed.compression_products, traces[1].compression_flops
    return Comparison(
        type(model).__name__, vanilla, (*compressed, products), (traces[0], traces[1])
    )


def _rows(after: Cost, step: Cost, done: Trace) -> tuple[tuple[str, int, int], ...]:
    return (
        (PREFILL, after.prefill_flops, done.prefill_flops),
        (DECODE, step.decode_flops, done.decode_flops),
        (KV, after.kv_bytes, sum(done.kv_bytes)),
    )


def runner(model: Any, shape: DecoderShape, dtype: torch.dtype) -> Any:
    """Forward passes on embeddings of the meta device, for `lightkv.core.run.tracing.trace`."""
    from lightkv.adapters.hf import contact

    def forward(tokens: int, cache: Any) -> tuple[Any, HeldBytes]:
        embeds = torch.empty(1, tokens, shape.hidden_size, device="meta", dtype=dtype)
        # With layer 0 compressed, a model cannot tell from its cache where the next token stands.
        places = torch.empty(1, tokens, device="meta", dtype=torch.long)
        out = model(
            inputs_embeds=embeds,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        return cache, [contact.held_bytes(layer) for layer in cache.layers]

    return forward


def dtype_of(size: int) -> torch.dtype:
    """A float dtype of so many bytes.

    Raises:
        ConfigError: there is none that models run in.
    """
    known = {2: torch.float16, 4: torch.float32, 8: torch.float64}
    if size not in known:
        raise ConfigError(
            "a run needs a dtype of that size",
            field="--dtype-bytes",
            value=size,
            remedy="2, 4 or 8 with --trace; counting alone takes any",
        )
    return known[size]


def meta_model(described: Description) -> tuple[Adapter, Any]:
    """The adapter of a description's model, and the model on the meta device.

    A family without image-text class is run as its text model, the `generic` way.

    Raises:
        ModelError: transformers can make neither.
    """
    quiet_libraries()
    if described.served is not None:
        adapter, model = described.served
        return adapter, model
    config = config_of(described)
    try:
        return find_on_meta(config)
    except ModelError:
        model = text_on_meta(config)
        return find_adapter(model, "generic"), model


def config_of(described: Description) -> Any:
    """The transformers config of a description, made of its sizes for a model that is built in."""
    if described.config is not None:
        return described.config
    return built_in_config(described.family, described.shape)


def built_in_config(family: str, shape: DecoderShape) -> Any:
    """A transformers config of a family with a decoder of these sizes."""
    from transformers import AutoConfig

    sizes = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
    }
    if family == "llama":
        return AutoConfig.for_model("llama", **sizes)
    text = {"qwen2_5_vl": "qwen2_5_vl_text"}.get(family, "llama")
    # Where the defaults of transformers are not what was published.
    towers = {"qwen2_5_vl": {"hidden_size": 1280, "out_hidden_size": shape.hidden_size}}
    vision = {"vision_config": towers[family]} if family in towers else {}
    return AutoConfig.for_model(
        family,
        text_config={"model_type": text, "tie_word_embeddings": False, **sizes},
        tie_word_embeddings=False,
        **vision,
    )
