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


def told(folder, pipeline, **wanted):
    """What `own_process.py` tells of an engine with this pipeline."""
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
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(out.read_text())


def by_transformers(pipeline, retention):
    """Answers of transformers with the same stages, one at a time."""
    setting = Setting(pipeline, {"retention": retention}, new_tokens=TOKENS, least=TOKENS)
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
@pytest.mark.parametrize("pipeline", ["lightkv", "fastv", "dart"])
def test_two_ranks_answer_as_one(tmp_path, pipeline):
    """They score by the text's attention, by its last row and by keys: each rank has its heads only."""
    ours = {"pipeline": pipeline, "retention": 0.55}
    found = told(tmp_path, ours, engine={"tensor_parallel_size": 2})
    assert found["answers"] == by_transformers(pipeline, 0.55)
