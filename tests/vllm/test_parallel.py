"""Engines whose work is in processes of their own: apart from the front, on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm.config")

from compare import Setting, in_transformers

from lightkv.checkpoints.bundled import checkpoint_path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks" / "vllm"
COUNT = 8
"""Questions; the fourth is text only, the eighth has two pictures."""
TOKENS = 8


def told(folder, pipeline, apart="1", **wanted):
    """What `own_process.py` tells of an engine with this pipeline; `apart` from it or not."""
    out = folder / "told.json"
    wanted = {
        "pipeline": pipeline,
        "model": str(checkpoint_path()),
        "engine": {},
        "count": COUNT,
        "tokens": TOKENS,
        "out": str(out),
        **wanted,
    }
    path = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "own_process.py"), json.dumps(wanted)],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": apart, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(out.read_text())


def by_transformers(pipeline, retention, tokens=TOKENS):
    """Answers of transformers with the same stages, one at a time."""
    setting = Setting(pipeline, {"retention": retention}, new_tokens=tokens, least=tokens)
    return in_transformers(setting, COUNT)["answers"]


@pytest.mark.slow
def test_an_engine_in_its_own_process_streams(tmp_path):
    """Every third request of the first round is aborted behind its first piece."""
    found = told(tmp_path, {"pipeline": "lightkv", "retention": 0.55}, streamed=True)
    expected = by_transformers("lightkv", 0.55)
    assert all(len(pieces) > 1 for pieces in found["again"])
    assert [joined(pieces) for pieces in found["again"]] == expected
    for number, pieces in enumerate(found["first"]):
        ids, whole = joined(pieces), expected[number]
        assert ids == (whole[: len(ids)] if number % 3 == 2 else whole)
        assert ids


def joined(pieces):
    """The answer that came in pieces."""
    return [token for piece in pieces for token in piece]


@pytest.mark.slow
def test_scheduling_ahead_of_the_answers(tmp_path):
    """On the first runner, in a pool for few; the second runner has its own test."""
    tight = {"max_model_len": 352, "num_gpu_blocks_override": 150}
    ours = {"pipeline": "lightkv", "retention": 0.55}
    wanted = {"engine": tight, "asynchronous": True, "tokens": 40}
    found = told(tmp_path, ours, apart="0", **wanted)
    assert found["scheduler"] == "CountingAsyncScheduler"
    assert found["answers"] == by_transformers("lightkv", 0.55, 40)
    assert found["watch"]["preemptions"] > 0
    assert found["watch"]["left"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["lightkv", "fastv", "dart"])
def test_two_ranks_answer_as_one(tmp_path, pipeline):
    """They score by the text's attention, by its last row and by keys: each rank has its heads only."""
    ours = {"pipeline": pipeline, "retention": 0.55}
    found = told(tmp_path, ours, engine={"tensor_parallel_size": 2})
    assert found["answers"] == by_transformers(pipeline, 0.55)
