"""The second model runner: its own batches turned into steps, and answers equal to the first runner's.

The answers need Triton, whose interpreter runs the kernels of that runner on a CPU.
"""

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

from lightkv.integrations.vllm.attention import Steps
from lightkv.integrations.vllm.cache import SegmentSpec
from lightkv.integrations.vllm.model_state import SegmentModelState, write_slots
from lightkv.integrations.vllm.plan import Entry
from lightkv.integrations.vllm.serving import Serving
from lightkv.integrations.vllm.step import Row, Step

PAGE, BLOCKS, SEGMENTS = 16, 12, 3


def entry(prompt, removed):
    return Entry((), SimpleNamespace(), prompt, prompt, removed)


ROWS = [
    Row(70, 1, entry(64, (0, 20, 35))),
    Row(9, 1, None),
    Row(0, 60, entry(55, (0, 16, 32))),
    Row(0, 18, None),
    Row(0, 50, entry(50, (0, 0, 8))),
]
"""Two that decode, one of which was compressed before; one that comes again with 5 tokens of its answer
behind its prompt; a text; one that compresses late."""


def spec(segment):
    return SegmentSpec(
        block_size=PAGE, num_kv_heads=1, head_size=8, dtype=torch.float32, segment=segment
    )


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randperm(SEGMENTS * 8 * BLOCKS, generator=generator).to(torch.int32)
    return tuple(drawn.view(SEGMENTS, 8, BLOCKS))


def test_slots_of_each_segment_in_place(tables):
    step = Step(ROWS, SEGMENTS)
    slots = torch.full((SEGMENTS, step.total + 6), 7)
    at = slots.data_ptr()
    write_slots(step, [spec(segment) for segment in range(SEGMENTS)], tables, slots)
    assert slots.data_ptr() == at
    # The first segment holds all: what the runner computed stays.
    assert (slots[0] == 7).all()
    for segment in (1, 2):
        expected = step.slots(segment, tables[segment].numpy(), PAGE)
        assert slots[segment, : len(expected)].tolist() == expected.tolist()
        assert (slots[segment, len(expected) :] == -1).all()
        assert len(set(expected.tolist())) == len(expected) == step.new(segment).sum()


def test_groups_may_come_in_any_order(tables):
    step = Step(ROWS, SEGMENTS)
    one, other = (torch.zeros(3, step.total, dtype=torch.int64) for _ in range(2))
    write_slots(step, [spec(0), spec(1), spec(2)], tables, one)
    write_slots(step, [spec(2), spec(0), spec(1)], [tables[i] for i in (2, 0, 1)], other)
    assert torch.equal(one, other[[1, 2, 0]])


def test_without_segments_nothing_is_written(tables):
    slots = torch.zeros(1, 200, dtype=torch.int64)
    write_slots(Step(ROWS, SEGMENTS), [spec(0)], tables[:1], slots)
    assert not slots.any()


def state_with(entries):
    """A model state without an engine, which knows requests."""
    state = object.__new__(SegmentModelState)
    serving = state.serving = object.__new__(Serving)
    serving.requests = SimpleNamespace(known=entries.get)
    serving.plan, serving.steps = SimpleNamespace(segments=SEGMENTS), Steps()
    return state


def batch_of(rows):
    """A batch of the second runner, with padded requests as decoding graphs have them."""
    counts = np.array([row.count for row in rows], dtype=np.int32)
    batch = InputBatch.make_dummy(
        len(rows), int(counts.sum()), InputBuffers(16, 256, torch.device("cpu"))
    )
    batch.num_scheduled_tokens = counts
    batch.num_computed_tokens_np = np.array([row.computed for row in rows], dtype=np.int32)
    batch.num_reqs_after_padding = len(rows) + 3
    return batch


def test_a_batch_becomes_a_step():
    batch = batch_of(ROWS)
    known = {name: row.entry for name, row in zip(batch.req_ids, ROWS, strict=True)}
    step = state_with(known)._step(batch)
    assert step.rows == ROWS
    assert step.compressing == (2, 4)


def test_batches_without_pictures_are_left_alone():
    assert state_with({})._step(batch_of(ROWS[1:2] + ROWS[3:4])) is None


def test_our_models_bring_the_state():
    from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

    from lightkv.integrations.vllm.models import LightKVLlava

    model = object.__new__(LightKVLlava)
    assert resolve_model_state_cls(None, model) is SegmentModelState


def test_whole_graphs_are_for_decoding_only():
    from vllm.v1.attention.backend import AttentionCGSupport
    from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend

    from lightkv.integrations.vllm.attention import Steps, segment_backend

    underlying = FlashAttentionBackend.get_builder_cls()
    builder = segment_backend(FlashAttentionBackend, Steps()).get_builder_cls()
    for theirs in AttentionCGSupport:
        underlying_support = underlying._cudagraph_support
        try:
            underlying._cudagraph_support = theirs
            ours = builder.get_cudagraph_support(None, spec(1))
        finally:
            underlying._cudagraph_support = underlying_support
        assert ours.value == min(theirs.value, AttentionCGSupport.UNIFORM_BATCH.value)


def test_what_another_segment_worked_out_is_not_taken_over():
    from vllm.v1.attention.backend import CommonAttentionMetadata

    from lightkv.integrations.vllm.attention import _of_segment

    step = Step(ROWS, SEGMENTS)
    starts = torch.tensor([0, *np.cumsum(step.counts)], dtype=torch.int32)
    common = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.zeros(len(ROWS), dtype=torch.int32),
        num_reqs=len(ROWS),
        num_actual_tokens=step.total,
        max_query_len=60,
        max_seq_len=71,
        block_table_tensor=torch.zeros(len(ROWS), BLOCKS, dtype=torch.int32),
        slot_mapping=torch.zeros(step.total, dtype=torch.int64),
    )
    common.seq_lens += torch.from_numpy(step.computed + step.counts).to(torch.int32)
    common.compute_num_computed_tokens()
    common._token_to_req_indices_cache = torch.zeros(step.total, dtype=torch.int32)
    counted = _of_segment(step, 2, common)
    assert counted.seq_lens.tolist() == [36, 10, 28, 18, 42]
    assert counted.compute_num_computed_tokens().tolist() == [35, 9, 0, 0, 0]
    assert counted._token_to_req_indices_cache is None
    assert counted.query_start_loc.tolist() == [0, 1, 2, 30, 48, 90]
    assert counted.num_actual_tokens == len(counted.slot_mapping) == 90
    assert (counted.max_query_len, counted.max_seq_len) == (42, 42)


# Answers of both runners

PIPELINE = {"pipeline": "lightkv", "retention": 0.55}
MODES = {
    "the first": {"runner": 1, "tokens": 24},
    "the second": {"runner": 2, "tokens": 8},
    "in shapes of graphs": {"runner": 2, "tokens": 8, "graphs": True},
    "asynchronous, in a tight pool": {
        "runner": 2,
        "tokens": 24,
        "asynchronous": True,
        "tight": 1.05,
    },
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What `second_runner.py` tells of each mode, each in a process of its own, two at a time."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the second model runner needs Triton: `make vllm` installs it")
    folder = tmp_path_factory.mktemp("runners")

    def run(number, mode):
        out = folder / f"{number}.json"
        wanted = {"pipeline": PIPELINE, "out": str(out), **mode}
        script = Path(__file__).with_name("second_runner.py")
        command = [sys.executable, str(script), json.dumps(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(out.read_text())

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MODES, pool.map(run, range(len(MODES)), MODES.values()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(MODES)[1:])
def test_the_second_runner_answers_as_the_first(told, mode):
    assert told["the first"]["runner"] == "lightkv.integrations.vllm.worker"
    assert told[mode]["runner"] == "vllm.v1.worker.cpu.model_runner"
    tokens = MODES[mode]["tokens"]
    expected = [answer[:tokens] for answer in told["the first"]["answers"]]
    assert told[mode]["answers"] == expected
    assert told[mode]["left"] == 0


@pytest.mark.slow
def test_the_modes_met_what_they_are_for(told):
    met = told["in shapes of graphs"]["graphs"]
    assert met["full"] > met["padded"] > 0
    assert met["piecewise"] > 0
    tight = told["asynchronous, in a tight pool"]
    assert tight["preemptions"] > 0
    assert tight["scheduler"] == "CountingAsyncScheduler"
    assert told["the second"]["preemptions"] == 0
