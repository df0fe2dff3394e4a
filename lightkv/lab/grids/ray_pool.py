"""Jobs spread over a Ray cluster (extra `ray`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.lab.errors import RunError
from lightkv.lab.grids.pools import Started
from lightkv.lab.grids.worker import Job, Result, Worker

LOCAL = "local"
"""The address that starts a cluster on this machine for the run."""
PATIENCE = 60.0
"""Seconds to wait for a first actor."""
STARTS = 3
"""Actors in a row that may die before they have started."""


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
        self._address = address
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, Job]] = {}
        self._lost = 0
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            options |= {"num_cpus": workers * threads, "include_dashboard": False}
        self._began = not self._ray.is_initialized()
        if self._began:
            try:
                self._ray.init(log_to_driver=False, logging_level="ERROR", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise RunError(
                    f"there is no Ray cluster to be reached ({_short(error)})",
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
        """Results of jobs, in the order in which they end.

        A job whose actor dies is tried once more on another one.

        Raises:
            RunError: the cluster has no room for a single actor, or actors cannot start there.
        """
        queue, tried = list(reversed(jobs)), set[str]()
        while queue or self._busy:
            while len(self._actors) < min(self._wanted, len(queue) + len(self._busy)):
                self._add()
            while queue and self._idle:
                self._give(queue.pop(), started)
            if not queue:
                self._release()
            ready = self._next()
            if ready in self._starting:
                self._met(ready)
                continue
            actor, job = self._busy.pop(ready)
            try:
                found = self._ray.get(ready)
                self._idle.append(actor)
            except self._ray.exceptions.RayError as error:
                self._actors.remove(actor)
                if job.id not in tried:
                    tried.add(job.id)
                    queue.append(job)
                    continue
                found = Result(job.id, error=f"its Ray actor ended twice: {_short(error)}")
            yield found

    def _add(self) -> None:
        remote = self._ray.remote(num_cpus=self._threads, max_restarts=0)(_Actor)
        actor = remote.remote(self._threads)
        self._actors.append(actor)
        self._starting[actor.ping.remote()] = actor

    def _give(self, job: Job, started: Started) -> None:
        actor = self._idle.pop()
        started(job.id)
        self._busy[actor.run.remote(job)] = actor, job

    def _release(self) -> None:
        """Give back what nothing is left for: the cluster may be wanted by others."""
        for actor in [*self._idle, *self._starting.values()]:
            self._ray.kill(actor)
            self._actors.remove(actor)
        self._idle.clear()
        self._starting.clear()

    def _next(self) -> Any:
        """What is ready first: an answer of an actor that started, or a result."""
        # While one works the others may wait for room; where none does, room may never come.
        patience = None if self._busy else PATIENCE
        ready, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=patience)
        if ready:
            return ready[0]
        total, free = (
            found().get("CPU", 0.0)
            for found in (self._ray.cluster_resources, self._ray.available_resources)
        )
        raise RunError(
            f"no worker started on the Ray cluster within {PATIENCE:g} s: each asks for "
            f"{self._threads} CPUs of one machine; the cluster has {total:g}, {free:g} of them free",
            field="--ray",
            value=self._address,
            remedy="give fewer --threads, or run the same command again when there is room",
        )

    def _met(self, ready: Any) -> None:
        """An actor has started, or could not."""
        actor = self._starting.pop(ready)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._actors.remove(actor)
            self._lost += 1
            if self._lost >= STARTS:
                raise RunError(
                    f"workers cannot start on the Ray cluster ({_short(error)})",
                    field="--ray",
                    value=self._address,
                    remedy="lightkv and its models must be there on every machine of the cluster",
                ) from error
        else:
            self._lost = 0
            self._idle.append(actor)


class _Actor(Worker):
    """A worker that can be asked whether it is there: an actor without room never answers."""

    def ping(self) -> bool:
        return True


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Ray is not installed",
            field="--ray",
            remedy="pip install lightkv[ray], or use --workers on one machine",
        ) from error
    return ray
