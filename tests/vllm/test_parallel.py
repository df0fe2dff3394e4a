"""Engines whose work is in processes of their own: apart from the front, streamed, on two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm.config")

from lightkv.checkpoints.bundled import checkpoint_path

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks" / "vllm"
COUNT = 8
OURS = {"pipeline": "lightkv", "retention": 0.55}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """`told(pipeline, engine={…}, …)` gives what `own_process.py` writes."""
    folder = tmp_path_factory.mktemp("processes")
    known = {}

    def ask(pipeline, model=None, **wanted):
        wanted = {
            "pipeline": pipeline,
            "model": str(model or checkpoint_path()),
            "engine": {},
            "count": COUNT,
            **wanted,
        }
        key = json.dumps(wanted, sort_keys=True)
        if key not in known:
            out = folder / f"{len(known)}.json"
            path = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                [
                    sys.executable,
                    str(HERE / "own_process.py"),
                    json.dumps({**wanted, "out": str(out)}),
                ],
                env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            known[key] = json.loads(out.read_text())
        return known[key]

    return ask


def by_transformers():
    """Answers of transformers with the same stages, one at a time."""
    from compare import Setting, in_transformers

    setting = Setting("lightkv", {"retention": 0.55}, new_tokens=6)
    return in_transformers(setting, COUNT)["answers"]


@pytest.mark.slow
def test_an_engine_in_its_own_process(told):
    answers = told(OURS)["answers"]
    assert [without_end(each) for each in answers] == [without_end(e) for e in by_transformers()]


def without_end(ids):
    """Without the token that ends an answer."""
    return ids[:-1] if ids and ids[-1] == 2 else ids


def joined(pieces):
    """The answer that came in pieces."""
    return [token for piece in pieces for token in piece]


@pytest.mark.slow
def test_streaming_with_aborts(told):
    wanted = {"streamed": True, "tokens": 6}
    found = told(OURS, **wanted)
    whole = [joined(pieces) for pieces in found["again"]]
    assert all(len(pieces) > 1 for pieces in found["again"])
    assert all(len(ids) == 6 for ids in whole)
    for number, pieces in enumerate(found["first"]):
        ids = joined(pieces)
        assert ids == (whole[number][: len(ids)] if number % 3 == 2 else whole[number])


@pytest.mark.slow
def test_two_ranks_answer_as_one(told):
    assert told(OURS, engine={"tensor_parallel_size": 2})["answers"] == told(OURS)["answers"]


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["fastv", "lightkv-plus", "dart", "tome"])
def test_two_ranks_score_alike(told, pipeline):
    """Keys, rows of attention and norms, of which each rank holds those of its heads."""
    ours = {"pipeline": pipeline, "retention": 0.35}
    one, two = (told(ours, engine={"tensor_parallel_size": size})["answers"] for size in (1, 2))
    assert two == one
