"""What a stage computes depends on its inputs only: not on the default dtype, not on autocast."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_laws import LAYER, SHAPE, batch_of, built
from test_compositions import AGGREGATORS, matchers, scorers
from torch.utils._python_dispatch import TorchDispatchMode

from lightkv import Stage, VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.errors import ConfigError
from lightkv.core.numerics import exact
from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec, resolve_spec
from lightkv.core.plugins import registry
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine
from lightkv.functional import compress_stage
from lightkv.testing import Case, Chain, cases
from lightkv.testing.cases import (
    SampleShape,
    SyntheticVision,
    stages_of,
    takes_windows,
)

PRESETS = sorted(name for name, e in registry().presets.items() if e.package == "lightkv")
ON_CACHE = ("rand", "imgrand", "tome-cache", "elastic-cache")
LOW = (torch.bfloat16, torch.float16, torch.float64)


class Watch(TorchDispatchMode):
    """Fails where a float of another dtype than the inputs' float32 is computed."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            # A single number is a Python one on its way, and decides no dtype.
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.is_floating_point()
                and tensor.numel() > 1
            ):
                assert tensor.dtype == torch.float32, f"{func} gives {tensor.dtype}"
        return out


@contextmanager
def default_dtype(dtype, *, watched=True):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with Watch() if watched else nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def autocast(dtype):
    with torch.autocast("cpu", dtype=dtype), Watch():
        yield


SURROUNDINGS = {f"default {d}": lambda d=d: default_dtype(d) for d in LOW}
SURROUNDINGS |= {f"autocast {d}": lambda d=d: autocast(d) for d in LOW[:2]}
surroundings = pytest.mark.parametrize("around", list(SURROUNDINGS))

BATCH = (
    SampleShape((2, 0, 3), ((1, 4, 4, True), (2, 3, 4, False))),
    SampleShape((3, 4), ((1, 5, 5, False),)),
    SampleShape((1, 0), ((1, 3, 3, False),)),
    SampleShape((5,), ()),
)


def same(one, other):
    """Whether two results of a stage agree bit for bit."""
    pairs = [
        (one.hidden_states, other.hidden_states),
        (one.assignment.slot, other.assignment.slot),
        (one.assignment.weight, other.assignment.weight),
        (one.size, other.size),
        (one.kept, other.kept),
    ]
    if one.score is not None:
        pairs.append((one.score, other.score))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


class Exact(SyntheticVision):
    """An encoder whose projector pays no heed to autocast (a model's own would)."""

    def project(self, features):
        with exact():
            return super().project(features)


def run(stages, case, around=nullcontext):
    """The stages one after the other, with queries and keys made in plain surroundings."""
    hidden, layout = case.hidden(), case.layout()
    chain = Chain.run(stages, hidden, layout, vision=Exact(hidden, layout), around=around)
    return [step.result for step in chain.steps]


VARIANTS = [
    ("hired", {"matcher": {"name": "tile-budget", "measure": "count"}}),
    ("hired", {"matcher": {"name": "tile-budget", "remainders": "lost"}}),
    ("dart", {"matcher": {"name": "pivots", "threshold": 0.3}}),
    ("sparsevlm", {"matcher": {"name": "top-k-clusters", "budget": "rank", "scale": 0.7}}),
    ("sparsevlm", {"matcher": {"name": "top-k-clusters", "assign": "cosine"}, "aggregator": "sum"}),
    ("prumerge-plus", {"matcher": {"name": "class-outliers", "budget": "outliers"}}),
    ("prumerge", {"aggregator": {"name": "neighbour-sum", "normalize": "mean"}}),
    ("visionzip", {"aggregator": {"name": "contextual", "combine": "mean"}}),
    ("tofu", {"aggregator": {"name": "fusion", "mode": "merge", "divisor": "destination"}}),
    ("lightkv", {"scorer": {"name": "prompt-attention", "normalize": "keys"}}),
    ("lightkv", {"matcher": {"name": "bipartite", "metric": "keys"}}),
    ("lightkv", {"partitioner": {"name": "windows", "budget": "view"}}),
    ("lightkv", {"matcher": "adaptive-bipartite"}),
]


@surroundings
@pytest.mark.parametrize(
    ("preset", "roles"),
    [(name, {}) for name in PRESETS] + VARIANTS,
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value)),
)
def test_presets(preset, roles, around):
    spec = resolve_spec(preset).model_copy(update=roles)
    case = Case(BATCH, ((2, 1) if takes_windows(spec) else (None, None)), 0.5, 3)
    stages = stages_of(spec, case.windows, case.ratio)
    plain, found = run(stages, case), run(stages, case, SURROUNDINGS[around])
    assert all(same(*pair) for pair in zip(plain, found, strict=True))


@settings(max_examples=100)
@given(data=st.data(), around=st.sampled_from(sorted(SURROUNDINGS)))
def test_compositions(data, around):
    windowed = data.draw(st.booleans())
    case = data.draw(cases(windowed=windowed, max_ratio=0.5))
    roles = {
        "partitioner": "windows" if windowed else "whole",
        "scorer": data.draw(st.one_of(st.none(), scorers(1))),
        "matcher": data.draw(matchers(1)),
        "aggregator": data.draw(st.sampled_from(AGGREGATORS)),
    }
    try:
        stages = stages_of(PipelineSpec(**roles), case.windows, case.ratio)
    except ConfigError:
        return
    plain, found = run(stages, case), run(stages, case, SURROUNDINGS[around])
    assert all(same(*pair) for pair in zip(plain, found, strict=True))


@surroundings
@pytest.mark.parametrize("preset", ON_CACHE)
def test_presets_on_the_cache(preset, around):
    case = Case(BATCH, (None,), 0.5, 3)
    pipeline, layout, (query, key, value) = (
        built(preset, 0.5, "vision"),
        case.layout(),
        batch_of(case),
    )

    def entries():
        prefill = Engine(pipeline, SHAPE).begin(layout)
        if prefill.cache_needs():
            prompt = prompt_index(layout, key.device)
            prefill.read_cache_attention(LAYER, QueryKeyView(query, key, 0.5, prompt))
        return *prefill.compress_cache(LAYER, key, value), prefill.cached[LAYER].size

    plain = entries()
    with SURROUNDINGS[around]():
        found = entries()
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", ON_CACHE)
def test_keys_and_values_of_two_dtypes_keep_theirs(preset, dtype):
    """Autocast stores keys in float32, which went through the rotary tables, and values in half."""
    case = Case(BATCH, (None,), 0.5, 3)
    query, key, value = batch_of(case)
    prefill = Engine(built(preset, 0.5, "vision"), SHAPE).begin(case.layout())
    if prefill.cache_needs():
        prompt = prompt_index(case.layout(), key.device)
        prefill.read_cache_attention(LAYER, QueryKeyView(query, key, 0.5, prompt))
    keys, values = prefill.compress_cache(LAYER, key, value.to(dtype))
    assert (keys.dtype, values.dtype) == (torch.float32, dtype)


@pytest.mark.parametrize("dtype", [*LOW, torch.long])
def test_sizes_count_right_whatever_dtype_they_come_in(dtype):
    """In bfloat16 256 + 1 is 256."""
    layout = VisionLayout.from_spans([[(0, (1, 1, 4))]], length=5)
    hidden = torch.ones(1, 5, 8)
    stage = Stage.preset("tome", ratio=0.5)
    size = torch.tensor([256, 255, 256, 1], dtype=torch.long).to(dtype)
    with default_dtype(dtype if dtype.is_floating_point else torch.float32, watched=False):
        result = compress_stage(hidden, layout, stage, size=size)
    assert result.size.dtype == torch.float32
    assert sum(result.size.tolist()) == float(size.double().sum())


@pytest.mark.parametrize("around", list(SURROUNDINGS))
def test_proportional_attention_knows_large_sizes(around):
    """log 1000 of a token that stands for a thousand, whatever the default dtype is."""
    schedule = [{"after_layer": 1, "ratio": 0.999}]
    roles = {"scorer": "noise", "matcher": {"name": "recycle", "of": "top-k"}, "proportional": True}
    engine = Engine(Pipeline.build({**roles, "schedule": schedule}, SHAPE.num_layers), SHAPE)
    layout, hidden = (
        VisionLayout.from_spans([[(1, (1, 25, 41))]], length=1030),
        torch.ones(1, 1030, 8),
    )
    with SURROUNDINGS[around]():
        prefill = engine.begin(layout)
        after = prefill.apply(1, hidden)
        logs = prefill.log_sizes()
    assert logs.dtype == torch.float32
    assert logs.shape == after.shape[:2]
    sizes = torch.zeros(1, after.shape[1]).masked_scatter(
        prefill.layout.vision_mask(), prefill.size
    )
    assert sizes.sum() == 1025
    assert sizes.max() > 1000
    torch.testing.assert_close(logs, sizes.clamp(min=1).log())


def test_a_size_above_256_under_a_coarse_default():
    layout = VisionLayout.from_spans([[(0, (1, 40, 40))]], length=1601)
    hidden = torch.ones(1, 1601, 8)
    with default_dtype(torch.bfloat16):
        result = compress_stage(
            hidden,
            layout,
            Stage.preset("random", ratio=0.999, matcher={"name": "recycle", "of": "top-k"}),
        )
    assert result.size.max() == 1600 - len(result.size) + 1
