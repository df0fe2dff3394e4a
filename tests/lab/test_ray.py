"""Grids on a Ray cluster. One cluster serves all tests, because to start one takes many seconds."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from clusters import needs_ray
from tables import table

from lightkv.lab import ablate
from lightkv.lab.errors import RunError
from lightkv.lab.grids import ray_pool, worker
from lightkv.lab.grids.ray_pool import RayPool
from lightkv.lab.grids.store import Store

pytestmark = needs_ray

GRID = {
    "task": {"name": "scenes", "scenes": 2, "seed": 5, "kinds": ["count", "exists"]},
    "retention": 0.5,
    "base": "fastv",
    "cells": [{"name": "random", "base": "random"}],
}
CPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Any:
    """The cluster that `local` starts for two workers of one thread, and ends."""
    import ray

    assert not ray.is_initialized()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # actors do not stand back behind other tests
        with RayPool("local", CPUS, 1):
            assert ray.cluster_resources()["CPU"] == CPUS
            yield ray
    assert not ray.is_initialized()


@pytest.fixture
def idle(cluster: Any) -> Any:
    """The cluster, once actors of the test before have given back what they had."""
    end = time.monotonic() + 60
    while cluster.available_resources().get("CPU") != CPUS:
        assert time.monotonic() < end, "actors that were killed hold the cluster"
        time.sleep(0.05)
    return cluster


def test_ray_without_room_says_so(idle, tmp_path, monkeypatch):
    """A cluster with fewer CPUs than an actor asks for; then one with room for one of two."""
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "PATIENCE", 2.0)
        with pytest.raises(RunError, match=r"asks for 4 CPUs .*has 2, 2 of them free"):
            ablate(GRID, out=tmp_path / "r.sqlite", ray="auto", threads=4)
    with Store.open(tmp_path / "r.sqlite") as store:
        assert {cell.status for cell in store.cells()} == {"pending"}
    ablate(GRID, out=tmp_path / "r.sqlite", ray="auto", workers=2, threads=2).close()
    with Store.open(tmp_path / "r.sqlite") as store:
        assert [cell.status for cell in store.cells()] == ["done"] * 3


def test_ray_gives_the_same(idle, tmp_path):
    ablate(GRID, out=tmp_path / "here.sqlite", threads=1).close()
    ablate(GRID, out=tmp_path / "ray.sqlite", ray="local", workers=2, threads=1).close()
    assert idle.is_initialized()  # a cluster that was there before the run stays
    assert table(tmp_path / "ray.sqlite") == table(tmp_path / "here.sqlite")


class Dies(worker.Job):
    """Ends the process that opens it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_ray_actor_that_dies_costs_its_cell_only(idle):
    """One cell makes its actor end itself, twice; the others are done by another one."""
    seen: list[str] = []
    with RayPool("auto", 1, 1) as pool:
        jobs = [Dies("a", {}), worker.Job("b", {"model": "none"})]
        results = list(pool.run(jobs, seen.append))
    assert [r.id for r in results] == ["a", "b"]
    assert results[0].error.startswith("its Ray actor ended twice")
    assert results[1].error.startswith("KeyError")
