"""One process of two that hold a model together. Started by test_tensor_parallel.py, not by pytest.

    RANK=0 WORLD_SIZE=2 PYTHONPATH=tests:tests/adapters:tests/families \
        python tensor_parallel_worker.py FOLDER

Everything is computed by the single model first, then by the pair; what differs goes to a JSON file.
"""

import json
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

import torch
import transformers
from torch import distributed

from lightkv.adapters.hf.tensor_parallel import ProcessHeads
from lightkv.core.contracts import AttentionScorer
from lightkv.core.errors import ConfigError
from lightkv.core.hookspecs import hookimpl
from lightkv.core.needs import Need, needs_class_token
from lightkv.core.plugins import registry
from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import encoder_needs, on_cache, reads_next_layer

FAMILIES = {
    "Llava": ("test_llava", "TestLlava"),
    "LlavaNext": ("test_llava_next", "TestLlavaNext"),
    "LlavaOnevision": ("test_llava_onevision", "TestImages"),
    "LlavaNextVideo": ("test_llava_next_video", "TestVideos"),
    "VideoLlava": ("test_video_llava", "TestVideos"),
    "VipLlava": ("test_vipllava", "TestVipLlava"),
    "InternVL": ("test_internvl", "TestInternVL"),
    "Qwen2VL": ("test_qwen2_vl", "TestQwen2VL"),
    "Qwen25VL": ("test_qwen_vl", "TestQwen25VL"),
    "Qwen3VL": ("test_qwen3_vl", "TestQwen3VL"),
    "Gemma3": ("test_gemma3", "TestGemma3"),
    "Mistral3": ("test_mistral3", "TestMistral3"),
    "Pixtral": ("test_pixtral", "TestPixtral"),
    "Idefics3": ("test_idefics3", "TestIdefics3"),
    "SmolVLM": ("test_smolvlm", "TestSmolVLM"),
    "PaliGemma": ("test_paligemma", "TestPaliGemma"),
    "PaliGemma2": ("test_paligemma", "PaliGemma2"),
    "Glm4v": ("test_glm4v", "TestImages"),
    "Fuyu": ("test_fuyu", "TestFuyu"),
    "Mistral": ("test_windows", "TestMistral"),
}
HEADS = {f"self_attn.{name}_proj": "colwise" for name in "qkv"} | {"self_attn.o_proj": "rowwise"}
PLANS = {
    # Its config has no plan for the decoder, so `auto` cuts nothing but the vocabulary.
    "Qwen3VL": {f"model.language_model.layers.*.{key}": style for key, style in HEADS.items()},
}
VARIANTS = {
    "keys": ("tome", {"matcher": {"name": "bipartite", "metric": "keys"}}),
    "causal": ("lightkv", {"scorer": "causal-attention"}),
    # The distance of two cache entries is that of all their heads.
    "cache": (
        "tome-cache",
        {
            "matcher": {"name": "bipartite", "metric": "hidden"},
            "schedule": [{"site": "cache", "ratio": 0.5}],
        },
    ),
    "normalised": ("lightkv", {"scorer": {"name": "prompt-attention", "normalize": "keys"}}),
}
EVERYWHERE = ("lightkv", "lightkv-release", "fastv", "tome", "random", "pyramiddrop")
WITH_VARIANTS = ("Llava", "Qwen25VL", "Gemma3")
STEPS = 3


class Lonely(AttentionScorer):
    """Reads the heads of its own process only."""

    name = "lonely"
    requires = frozenset({Need.LAST_ROW})

    def read_attention(self, attention):
        return attention.last_row().mean(dim=1)


class Plugin:
    @hookimpl
    def lightkv_components(self, register):
        register(Lonely)


def pipelines(name, suite):
    """All presets that the family takes where variants run too, else those that read it apart."""
    names = sorted(registry().presets) if name in WITH_VARIANTS else EVERYWHERE
    presets = {n: (n, {"schedule": suite.schedule_of(n)}) for n in names if takes(suite, n)}
    variants = VARIANTS if name in WITH_VARIANTS else {}
    return presets | {key: value for key, value in variants.items() if takes(suite, value[0])}


def takes(suite, preset):
    if reads_next_layer(preset) and "next layer" in suite.cannot:
        return False
    if on_cache(preset) and suite.refuses_cache_site:
        return False
    return suite.class_token or not needs_class_token(encoder_needs(preset))


def run(suite, model, inputs, pipeline, **changes):
    with suite.session(model, MIXED, pipeline, trace=True, **changes) as session:
        out = suite.generate(model, inputs)
    return torch.stack(out.logits), session.last, out.past_key_values


def steps(report):
    """Assignments of the stages between layers, then of each layer's cache."""
    cached = [layer.assignment for layer in report.cache_trace if layer is not None]
    return [*report.trace, *cached]


def compare(one, other):
    """How the pair's run differs from the single model's."""
    (logits, trace, cache_bytes, flops), (found, told, cache) = one, other
    same = [
        torch.equal(slot, b.slot) and torch.equal(survivor, b.survivor)
        for (slot, survivor), b in zip(trace, steps(told), strict=True)
    ]
    new = STEPS - 1
    held = [
        layer.keys[..., : layer.keys.shape[2] - new, :].nbytes
        + layer.values[..., : layer.values.shape[2] - new, :].nbytes
        for layer in cache.layers
        if not getattr(layer, "is_sliding", False)
    ]
    full = [not getattr(layer, "is_sliding", False) for layer in cache.layers]
    return {
        "same tokens": all(same),
        "stages": len(told.trace) + any(layer is not None for layer in told.cache_trace),
        "logits": float((logits - found).abs().max()),
        "bytes": held == [b for b, keep in zip(told.cache_bytes, full, strict=True) if keep],
        "halved": [2 * n for n in told.cache_bytes] == list(cache_bytes),
        "flops": told.flops == flops,
    }


def identity(suite, model, inputs):
    plain = suite.logits(model, inputs)
    schedule = [{**stage, "ratio": 0.0} for stage in suite.schedule]
    with suite.session(model, MIXED, "lightkv", schedule=schedule):
        return torch.equal(plain, suite.logits(model, inputs))


def messages(suite, model, inputs):
    """Collective calls of our own in one prefill of two stages."""
    counts = {"all_reduce": 0, "broadcast": 0}
    own = {name: getattr(ProcessHeads, name) for name in counts}

    def counting(name):
        def call(*args):
            counts[name] += 1
            return own[name](*args)

        return call

    for name in counts:
        setattr(ProcessHeads, name, counting(name))
    run(suite, model, inputs, "lightkv")
    for name, method in own.items():
        setattr(ProcessHeads, name, method)
    return counts


def deaf(suite, model, inputs):
    """Logits of a pair whose processes do not hear one another: shows that the test can fail."""
    own = ProcessHeads.all_reduce, ProcessHeads.broadcast
    ProcessHeads.all_reduce = lambda self, values, how: values
    ProcessHeads.broadcast = lambda self, values: values
    try:
        return run(suite, model, inputs, "fastv")
    finally:
        ProcessHeads.all_reduce, ProcessHeads.broadcast = own


def refused(suite, model, inputs):
    """What a component hears that forgets the other heads."""
    try:
        run(suite, model, inputs, "fastv", scorer="lonely")
    except ConfigError as error:
        return str(error)
    return ""


def alone(suite, model, inputs, name, folder, rank):
    """What the single model does; each process computes half of it, to save time."""
    keys = list(pipelines(name, suite))
    mine = {}
    for key in keys[rank::2]:
        pipeline, changes = pipelines(name, suite)[key]
        logits, report, _ = run(suite, model, inputs, pipeline, **changes)
        trace = [(stage.slot, stage.survivor) for stage in steps(report)]
        mine[key] = logits, trace, report.cache_bytes, report.flops
    torch.save(mine, folder / f"{name}{rank}.pt")
    distributed.barrier()
    return torch.load(folder / f"{name}{1 - rank}.pt") | mine


def check(name, folder, rank):
    module, cls = FAMILIES[name]
    suite = getattr(import_module(module), cls)()
    suite.steps = STEPS
    model = suite.make_model()
    inputs = suite.make_inputs(model, MIXED)
    if rank == 0:
        model.save_pretrained(folder / name)
    wanted = alone(suite, model, inputs, name, folder, rank)
    try:
        pair = type(model).from_pretrained(folder / name, tp_plan=PLANS.get(name, "auto")).eval()
        suite.logits(pair, inputs)
    except (RuntimeError, ValueError) as error:  # the table in the test knows which
        return {"cannot": f"{type(error).__name__}: {error}"}
    results = {
        key: compare(wanted[key], run(suite, pair, inputs, p, **c))
        for key, (p, c) in pipelines(name, suite).items()
    }
    found = {"results": results, "identity": identity(suite, pair, inputs)}
    if name == "Llava":
        found |= {
            "messages": messages(suite, pair, inputs),
            "refused": refused(suite, pair, inputs),
            "deaf": compare(wanted["fastv"], deaf(suite, pair, inputs)),
        }
    return found


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    registry().register(Plugin(), name="lonely", package="tests")
    found = {name: check(name, folder, rank) for name in FAMILIES}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
