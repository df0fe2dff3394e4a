"""Jobs spread over a Ray cluster (extra `ray`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.lab.errors import RunError
from lightkv.lab.pool import Started
from lightkv.lab.work import Job, Result, Worker

LOCAL = "local"
"""The address that starts a cluster on this machine for the run."""


class RayPool:
    """Actors on a Ray cluster; a context manager that ends them.

    lightkv and the checkpoints must be there on every machine of the cluster.

    Args:
        address: of the cluster, as `ray.init` takes it, or `local`.
        workers: actors.
        threads: of torch in each, and CPUs that each asks the cluster for.

    Raises:
        ConfigError: ray is not installed.
        RunError: no cluster at the address.
    """

    def __init__(self, address: str, workers: int, threads: int) -> None:
        self._ray = _ray()
        self._wanted = workers
        self._threads = threads
        self._actors: list[Any] = []
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            options |= {"num_cpus": workers * threads, "include_dashboard": False}
        self._began = not self._ray.is_initialized()
        if self._began:
            try:
                self._ray.init(log_to_driver=False, logging_level="ERROR", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise RunError(
                    f"there is no Ray cluster to be reached ({' '.join(str(error).split())[:200]})",
                    field="--ray",
                    value=address,
                    remedy=f"start one with `ray start --head`, or use {LOCAL!r}",
                ) from error

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._began:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job], started: Started) -> Iterator[Result]:
        """Results of jobs, in the order in which they end."""
        queue, busy = list(reversed(jobs)), dict[Any, tuple[Any, str]]()
        idle = list(self._actors)
        while queue or busy:
            while queue and (idle or len(self._actors) < self._wanted):
                actor = idle.pop() if idle else self._add()
                job = queue.pop()
                started(job.id)
                busy[actor.run.remote(job)] = actor, job.id
            ready, _ = self._ray.wait(list(busy), num_returns=1)
            actor, identity = busy.pop(ready[0])
            try:
                yield self._ray.get(ready[0])
                idle.append(actor)
            except self._ray.exceptions.RayError as error:
                self._actors.remove(actor)
                text = " ".join(str(error).split())[:300]
                yield Result(identity, error=f"its Ray actor ended: {text}")

    def _add(self) -> Any:
        remote = self._ray.remote(num_cpus=self._threads, max_restarts=0)(Worker)
        actor = remote.remote(self._threads)
        self._actors.append(actor)
        return actor


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed",
            field="--ray",
            remedy="pip install lightkv[ray], or use --workers on one machine",
        ) from error
    return ray
