"""Sessions where torch is set up in another way: another default dtype, autocast."""

from contextlib import contextmanager
from functools import cache

import pytest
import test_llava
import torch

from lightkv.core.plugins import registry
from lightkv.testing import Prompt

PRESETS = sorted(name for name, e in registry().presets.items() if e.package == "lightkv")
PROMPTS = (Prompt(4, 1, 3, seed=1), Prompt(2, 2, 0, seed=2))
SUITE = test_llava.TestLlava()


@pytest.fixture(scope="module")
def model():
    return SUITE.make_model()


@pytest.fixture(scope="module")
def inputs(model):
    return SUITE.make_inputs(model, PROMPTS)


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def decided(model, inputs, preset):
    """What a generation in a session kept: survivors of all stages, sizes in the report, logits."""
    schedule = SUITE.schedule_of(preset)
    with SUITE.session(model, PROMPTS, preset, schedule=schedule, trace=True) as session:
        logits = SUITE.logits(model, inputs)
    report = session.last
    stages = [given.slot for given in report.trace]
    stages += [done.assignment.slot for done in report.cache_trace or () if done is not None]
    assert stages
    return stages, report.cache_bytes, logits


@pytest.fixture(scope="module")
def usual(model, inputs):
    """What was decided under the default dtype that torch begins with, by preset."""
    return cache(lambda preset: decided(model, inputs, preset))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_default_dtype_changes_nothing(model, inputs, usual, preset, dtype):
    plain = usual(preset)
    with default(dtype):
        found = decided(model, inputs, preset)
    assert all(torch.equal(*pair) for pair in zip(plain[0], found[0], strict=True))
    assert plain[1] == found[1]
    assert plain[2].dtype == found[2].dtype == torch.float32
    # The model itself may take a constant in the default dtype.
    torch.testing.assert_close(plain[2], found[2], atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=str)
def autocast(request, model, inputs):
    """A dtype, and a generation without lightkv that ran under it."""
    with torch.autocast("cpu", dtype=request.param):
        return request.param, SUITE.generate(model, inputs)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_under_autocast(model, inputs, autocast, preset):
    """The cache keeps the dtypes that the model alone gives it, and the same tokens as it counts."""
    dtype, alone = autocast
    schedule = SUITE.schedule_of(preset)
    with (
        torch.autocast("cpu", dtype=dtype),
        SUITE.session(model, PROMPTS, preset, schedule=schedule) as session,
    ):
        out = SUITE.generate(model, inputs)
    assert bool(torch.isfinite(torch.stack(out.logits)).all())
    assert session.last.retention < 1
    for (key, value), (own_key, own_value) in zip(
        SUITE.cached(out.past_key_values), SUITE.cached(alone.past_key_values), strict=True
    ):
        assert (key.dtype, value.dtype) == (own_key.dtype, own_value.dtype)
