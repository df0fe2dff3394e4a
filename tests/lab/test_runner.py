"""Runs: here and in processes alike, killed and gone on with, failing cells, full disks."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from tables import table

from lightkv.core.errors import ConfigError
from lightkv.lab import ablate
from lightkv.lab.errors import StoreError
from lightkv.lab.grids import run as runner
from lightkv.lab.grids import worker
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.table import summary
from lightkv.lab.subject import Subject

GRID = {
    "name": "small",
    "task": {"name": "scenes", "scenes": 3, "seed": 5, "kinds": ["count", "exists"]},
    "retention": [0.5, 0.3],
    "axes": {"guidance": {"prompt": {}, "uniform": {"scorer": "uniform"}}},
    "cells": [{"name": "random", "base": "random"}],
    "skip": [{"where": {"guidance": "uniform", "retention": 0.3}, "reason": "dull"}],
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole.sqlite"
    steps = []
    with ablate(GRID, out=path, progress=steps.append) as store:
        assert [cell.status for cell in store.cells()].count("done") == 6
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 6, 6)
    return path


def test_results_are_complete(uninterrupted):
    cells, outcomes, against = table(uninterrupted)
    done = [cell for cell in cells if cell.status == "done"]
    assert len(done) == 6
    assert [cell.reason for cell in cells if cell.status == "skipped"] == ["dull"]
    for cell, found in zip(cells, outcomes, strict=True):
        assert len(found) == (6 if cell.status == "done" else 0)
        if cell.status == "done":
            assert cell.versions["torch"]
            assert len(cell.tokens) == 12
            assert cell.retention == pytest.approx(sum(o.retention for o in found) / 6)
            if cell.name != "vanilla":
                assert cell.retention == pytest.approx(float(cell.factors["retention"]), abs=0.006)
                assert cell.flops < 1
                assert cell.kv_bytes < 1
    assert set(against.values()) == {"vanilla"}
    with Store.open(uninterrupted) as store:
        lines = summary(store, resamples=200)
    assert lines[0].difference is None
    assert lines[1].baseline == "vanilla"
    assert lines[1].difference.mean_other == pytest.approx(lines[1].mean)
    assert lines[1].difference.low <= lines[1].difference.difference <= lines[1].difference.high


def test_nothing_is_run_twice(uninterrupted, monkeypatch):
    monkeypatch.setattr(worker.Worker, "run", lambda *args: pytest.fail("ran again"))
    before = table(uninterrupted)
    ablate(GRID, out=uninterrupted).close()
    assert table(uninterrupted) == before


def test_processes_give_the_same(uninterrupted, tmp_path):
    ablate(GRID, out=tmp_path / "two.sqlite", workers=2, threads=1).close()
    assert table(tmp_path / "two.sqlite") == table(uninterrupted)


def test_killed_in_the_middle_and_started_again(uninterrupted, tmp_path):
    """A real kill -9 after the second cell; the process is gone without a chance to tidy up."""
    path, grid = tmp_path / "killed.sqlite", tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump(GRID))
    command = [sys.executable, "-c", "from lightkv.cli import main; main()", "ablate", str(grid)]
    process = subprocess.Popen(
        [*command, "--out", str(path)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for line in process.stderr:
        if line.startswith("2 of 6"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    with Store.open(path) as store:
        status = [cell.status for cell in store.cells()]
        assert 2 <= status.count("done") < 6
        assert "pending" in status
    ablate(GRID, out=path).close()
    assert table(path) == table(uninterrupted)


def test_ctrl_c_leaves_nothing_running(tmp_path, monkeypatch):
    ran = []
    plain = worker.Worker.run

    def interrupted(self, job):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(job.id)
        return plain(self, job)

    monkeypatch.setattr(worker.Worker, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablate(GRID, out=tmp_path / "r.sqlite")
    with Store.open(tmp_path / "r.sqlite") as store:
        status = [cell.status for cell in store.cells()]
    assert (status.count("done"), status.count("running")) == (2, 0)


def test_failing_cells_do_not_stop_the_rest(uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "r.sqlite"
    plain = worker.Worker._run

    def broken(self, job):
        if job.spec["pipeline"].get("scorer") == "uniform":
            raise RuntimeError("out of\nmemory")
        return plain(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "_run", broken)
        with ablate(GRID, out=path) as store:
            failed = [cell for cell in store.cells() if cell.status == "failed"]
            assert [cell.reason for cell in failed] == ["RuntimeError: out of memory"]
            assert [cell.status for cell in store.cells()].count("done") == 5
    with ablate(GRID, out=path) as store:
        assert [cell.status for cell in store.cells()].count("failed") == 1
    ablate(GRID, out=path, retry_failed=True).close()
    assert table(path) == table(uninterrupted)


def test_scores_that_are_no_numbers_fail_their_cell(tmp_path, monkeypatch):
    plain = worker.Worker._run

    def odd(self, job):
        with monkeypatch.context() as patch:
            if job.spec["pipeline"].get("scorer") == "uniform":
                patch.setattr("lightkv.lab.tasks.digits.score", lambda *given: float("-inf"))
            return plain(self, job)

    monkeypatch.setattr(worker.Worker, "_run", odd)
    with ablate(GRID, out=tmp_path / "r.sqlite") as store:
        [failed] = [cell for cell in store.cells() if cell.status == "failed"]
        assert "score -inf" in failed.reason
        assert store.outcomes(failed.id) == []


def test_what_no_file_can_hold_is_replaced(tmp_path, monkeypatch):
    """Halves of surrogate pairs in an answer, or in an error, cost a mark and not the run."""
    plain = Subject.generate

    def odd(self, samples, limit=32):
        return [f"\udc80{answer}" for answer in plain(self, samples, limit)]

    monkeypatch.setattr(Subject, "generate", odd)
    with ablate({"task": GRID["task"]}, out=tmp_path / "r.sqlite") as store:
        first = store.outcomes(store.cells()[0].id)
    assert all(one.answer.startswith("?") for one in first)

    def broken(self, samples, limit=32):
        raise ValueError("\ud800")

    monkeypatch.setattr(Subject, "generate", broken)
    with ablate({"task": GRID["task"]}, out=tmp_path / "s.sqlite") as store:
        assert {cell.reason for cell in store.cells()} == {"ValueError: ?"}


def test_a_full_disk_stops_the_run_cleanly(uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "r.sqlite"
    plain, finished = Store.finish, []

    def full(self, cell, outcomes):
        if len(finished) == 2:
            self._run(f"PRAGMA max_page_count = {self._one('PRAGMA page_count')}")
            outcomes = [replace(o, question="long " * 2000) for o in outcomes]
        plain(self, cell, outcomes)
        finished.append(cell)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        with pytest.raises(StoreError, match="make room"):
            ablate(GRID, out=path)
    with Store.open(path) as store:
        assert [cell.status for cell in store.cells()].count("done") == 2
    ablate(GRID, out=path).close()
    assert table(path) == table(uninterrupted)


def test_agreement_is_with_the_uncompressed_model(tmp_path):
    grid = {
        "task": {"name": "agreement", "of": GRID["task"], "batch_size": 64},
        "vanilla": False,
        "cells": [{"name": "random", "base": "random", "retention": 0.2}],
    }
    with ablate(grid, out=tmp_path / "r.sqlite") as store:
        truth, other = (store.outcomes(cell.id) for cell in store.cells())
    assert {o.score for o in truth} == {1.0}
    assert [o.score for o in other] == [
        float(a.answer == b.answer) for a, b in zip(truth, other, strict=True)
    ]
    assert sum(o.score for o in other) < len(other)


def test_a_cell_may_have_a_task_of_its_own(tmp_path):
    """Other pictures of the same numbers are not compared, and agreement finds its reference."""
    small = {**GRID["task"], "scenes": 1}
    cells = [
        {"name": "more", "base": "random", "task": GRID["task"]},
        {"name": "relative", "base": "random", "task": {"name": "agreement", "of": small}},
    ]
    grid = {"task": small, "retention": 0.5, "cells": cells, "axes": {"g": {"x": {}}}}
    with ablate(grid, out=tmp_path / "r.sqlite") as store:
        assert {cell.status for cell in store.cells()} == {"done"}
        lines = summary(store, resamples=10)
        assert [line.baseline for line in lines[3:]] == [
            f"vanilla task={task}" for task in ("scenes", "scenes-2", "agreement")
        ]
        assert all(line.difference for line in lines[3:])
    with Store.create(tmp_path / "r.sqlite", runner.Grid.parse(grid).plain()) as store:
        store.update_meta(baselines={line.cell.name: lines[0].cell.name for line in lines[1:]})
        found = summary(store, resamples=10)
    assert [line.difference is not None for line in found] == [False] * 3 + [True, False, False]


def test_a_failed_reference_fails_what_needs_it(tmp_path, monkeypatch):
    def broken(self, job):
        raise RuntimeError("no")

    monkeypatch.setattr(worker.Worker, "_run", broken)
    grid = {"task": {"name": "agreement", "of": GRID["task"]}, "retention": 0.5}
    with ablate(grid, out=tmp_path / "r.sqlite") as store:
        assert [c.reason for c in store.cells()] == [
            "RuntimeError: no",
            "the uncompressed model failed on this task",
        ]


def test_changed_data_are_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    line = '{"image": "a.png", "question": "list all digits", "answers": ["3 red"]}\n'
    (tmp_path / "d.jsonl").write_text(line)
    grid = {"task": {"name": "files", "path": str(tmp_path / "d.jsonl")}}
    ablate(grid, out=tmp_path / "r.sqlite").close()
    (tmp_path / "d.jsonl").write_text(line.replace("3 red", "4 red"))
    with pytest.raises(StoreError, match="data have changed"):
        ablate(grid, out=tmp_path / "r.sqlite")


def interrupted_run(grid, path, monkeypatch):
    """A results file with one cell done and others pending."""
    plain, ran = worker.Worker.run, []

    def stop(self, job):
        if ran:
            raise KeyboardInterrupt
        ran.append(job.id)
        return plain(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            ablate(grid, out=path)


def test_other_versions_do_not_go_on(uninterrupted, tmp_path, monkeypatch):
    interrupted_run(GRID, tmp_path / "r.sqlite", monkeypatch)
    monkeypatch.setattr("lightkv.__version__", "9.9")
    with pytest.raises(StoreError, match=r"lightkv was .* and is 9\.9.*name another file"):
        ablate(GRID, out=tmp_path / "r.sqlite")
    ablate(GRID, out=uninterrupted).close()  # there is nothing left to mix


def test_a_changed_checkpoint_does_not_go_on(tmp_path, monkeypatch):
    from lightkv.checkpoints.bundled import checkpoint_path

    model = tmp_path / "model"
    shutil.copytree(checkpoint_path(), model)
    grid = {**GRID, "model": str(model)}
    interrupted_run(grid, tmp_path / "r.sqlite", monkeypatch)
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config + " ")
    with pytest.raises(StoreError, match=r"the checkpoint .* has changed"):
        ablate(grid, out=tmp_path / "r.sqlite")
    (model / "config.json").write_text(config)
    weights = next(model.glob("*.safetensors"))
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StoreError, match=r"the checkpoint .* has changed"):
        ablate(grid, out=tmp_path / "r.sqlite")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with ablate(grid, out=tmp_path / "r.sqlite") as store:
        assert [cell.status for cell in store.cells()].count("done") == 6


def test_a_second_run_on_the_same_file_is_refused(uninterrupted):
    with (
        Store.create(uninterrupted, runner.Grid.parse(GRID).plain()),
        pytest.raises(StoreError, match="locked"),
    ):
        ablate(GRID, out=uninterrupted)


def test_wrong_arguments(tmp_path):
    for options in ({"workers": 0}, {"threads": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            ablate(GRID, out=tmp_path / "r.sqlite", **options)
    assert list(tmp_path.iterdir()) == []


def test_ray_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install lightkv\[ray\]"):
        ablate(GRID, out=tmp_path / "r.sqlite", ray="local")
