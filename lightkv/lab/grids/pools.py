"""Jobs spread over processes of this machine.

Each process has a pipe of its own, so one that dies (a killed process, no memory) costs the cell that
it ran and nothing else; another takes its place and tries that cell once more. A process whose parent
dies ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from lightkv.lab.grids.worker import Job, Result, Worker

Started = Callable[[str], None]
"""Called with the id of a cell when it begins to run."""


class Here:
    """This process as a pool of one."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, jobs: Sequence[Job], started: Started) -> Iterator[Result]:
        """Results of jobs, one after the other."""
        for job in jobs:
            started(job.id)
            yield self._worker.run(job)


class Pool:
    """Worker processes; a context manager that ends them.

    Args:
        workers: how many.
        threads: of torch in each.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads = threads
        self._wanted = workers
        self._processes: dict[Connection, Any] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe, process in self._processes.items():
            pipe.close()
            process.terminate()
        for process in self._processes.values():
            process.join()
        self._processes.clear()

    def run(self, jobs: Sequence[Job], started: Started) -> Iterator[Result]:
        """Results of jobs, in the order in which they end."""
        queue, busy, tried = list(reversed(jobs)), dict[Connection, Job](), set[str]()
        while queue or busy:
            while len(self._processes) < min(self._wanted, len(queue) + len(busy)):
                self._add()
            for pipe in [p for p in self._processes if p not in busy][: len(queue)]:
                job = queue.pop()
                if self._give(pipe, job):
                    busy[pipe] = job
                    started(job.id)
                else:
                    queue.append(job)
            # To wait for nothing is to wait forever: all processes may have been dead.
            for ready in wait(list(busy)) if busy else []:
                assert isinstance(ready, Connection)
                job = busy.pop(ready)
                found = self._result(ready)
                if isinstance(found, Result):
                    yield found
                elif job.id in tried:
                    yield Result(job.id, error=f"its process ended twice, with exit code {found}")
                else:
                    tried.add(job.id)
                    queue.append(job)

    def _add(self) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        process.start()
        theirs.close()  # so that its end shows here
        self._processes[mine] = process

    def _give(self, pipe: Connection, job: Job) -> bool:
        """Send a job; False, and the process is gone, if it died while it had nothing to do."""
        try:
            pipe.send(job)
        except OSError:
            self._drop(pipe)
            return False
        return True

    def _result(self, pipe: Connection) -> Result | int | None:
        """What a process sends; its exit code if it died instead."""
        try:
            found = pipe.recv()
        except (EOFError, OSError):
            return self._drop(pipe)
        assert isinstance(found, Result)
        return found

    def _drop(self, pipe: Connection) -> int | None:
        process = self._processes.pop(pipe)
        pipe.close()
        process.join()
        code: int | None = process.exitcode
        return code


def _serve(pipe: Connection, threads: int) -> None:
    """A worker process: jobs in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    worker = Worker(threads)
    try:
        while True:
            pipe.send(worker.run(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
