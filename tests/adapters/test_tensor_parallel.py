"""Two processes that hold a model together (gloo, CPU) decide and compute what one does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from releases import before
from tensor_parallel_worker import EVERYWHERE, FAMILIES, WITH_VARIANTS

WORKER = Path(__file__).with_name("tensor_parallel_worker.py")
LIMIT = 240
"""Seconds until a hang is taken for one."""

CANNOT = {
    "PaliGemma": "is invalid for input of size",  # one key head cannot be cut in two (Gemma 1)
    **({} if before("5.23") else {"Fuyu": "has no `tp_plan`"}),
    **(dict.fromkeys(("Gemma3", "PaliGemma2"), "mixed torch.Tensor") if before("5.22") else {}),
}
"""What transformers itself says when it loads or runs the plain model, uncompressed."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("pair")
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(WORKER.parents[1]), str(WORKER.parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    logs = [folder / f"log{rank}" for rank in range(2)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            ranked = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with log.open("w") as out:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, str(WORKER), str(folder)],
                        env=ranked,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        for process in processes:
            process.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        pytest.fail("a process hangs\n" + _tails(logs))
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if any(process.returncode for process in processes):
        pytest.fail("a process failed\n" + _tails(logs))
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _tails(logs):
    return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)


# Fuyu cannot be peeked at, so fewer strategies than here run on it where it can be spread.
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in (*CANNOT, "Fuyu")])
def test_two_processes_decide_and_compute_what_one_does(found, family):
    for process in found:
        seen = process[family]
        assert "cannot" not in seen, seen
        assert seen["identity"], "a schedule of ratio 0 changed the pair's logits"
        assert len(seen["results"]) >= (15 if family in WITH_VARIANTS else len(EVERYWHERE))
        for pipeline, result in seen["results"].items():
            where = (family, pipeline)
            # One before the decoder; lightkv-release skips one where images are too small.
            assert 1 <= result["stages"] <= 2, where
            assert result["same tokens"], where
            assert result["logits"] < 1e-5, where
            assert result["bytes"], f"{where}: the report does not tell this process's bytes"
            assert result["halved"], where
            assert result["flops"], where


@pytest.mark.parametrize("family", CANNOT)
def test_what_transformers_cannot_spread_is_still_so(found, family):
    for process in found:
        assert CANNOT[family] in process[family]["cannot"]


def test_the_comparison_can_fail(found):
    """Processes that do not hear one another keep other tokens."""
    for process in found:
        assert not process["Llava"]["deaf"]["same tokens"]
        assert process["Llava"]["deaf"]["logits"] > 1e-4


def test_a_stage_costs_two_messages(found):
    """One for the importances, one for the decision, whatever the number of blocks."""
    for process in found:
        assert process["Llava"]["messages"] == {"all_reduce": 2, "broadcast": 2}


def test_a_component_that_forgets_the_other_heads_is_refused(found):
    for process in found:
        message = process["Llava"]["refused"]
        assert "scorer 'lonely'" in message
        assert "attention.heads" in message
