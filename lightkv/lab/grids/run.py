"""Runs the cells of a grid that are not done yet, and writes them into its results file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightkv.core.errors import LightKVError, check_least
from lightkv.lab.errors import GridError
from lightkv.lab.grids.cells import baselines, plan_cells
from lightkv.lab.grids.checks import check_combinations
from lightkv.lab.grids.extend import check_labels, merged, merged_baselines
from lightkv.lab.grids.pools import Here, Pool, Started
from lightkv.lab.grids.remaining import Remaining
from lightkv.lab.grids.resume import begun_with, check_unchanged
from lightkv.lab.grids.schema import Grid
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.unreached import remarks
from lightkv.lab.grids.worker import Job, Loaded, Result, Worker, finished, versions
from lightkv.lab.outcomes import Cell
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import tasks


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        done: cells that this run has ended, failed ones included.
        total: cells that it has to run.
        failed: of those done.
        cell: that was begun or ended last; None before the first.
        left: seconds that the rest will take; None before a cell has ended.
    """

    done: int
    total: int
    failed: int = 0
    cell: Cell | None = None
    left: float | None = None


Report = Callable[[Progress], None]


class _Pool(Protocol):
    def run(self, jobs: Sequence[Job], started: Started) -> Iterator[Result]: ...


def ablate(
    grid: Grid | str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    changes: Mapping[str, Any] | None = None,
    workers: int = 1,
    ray: str | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    extend: bool = False,
    progress: Report | None = None,
) -> Store:
    """Run a grid, or what is left of it.

    Stopped in any way, the same call goes on where it stopped: cells are written whole or not at
    all. A cell that fails is recorded with its error and does not stop the others.

    Args:
        grid: a grid, its YAML file, or plain data.
        out: the results file; made if it does not exist, gone on with if it is of this grid.
        changes: place → value that a YAML file has instead, such as `task.scenes` → 20.
        workers: processes, each with the model loaded once (actors, with `ray`). More than one are
            started by `spawn`, so a script needs the guard `if __name__ == "__main__"`.
        ray: address of a Ray cluster, or `local` to start one on this machine.
        threads: of torch in each worker; by default those of the run that began the file, else
            those of this process, shared out. Equal numbers give equal results bit for bit.
        retry_failed: run cells again that failed before.
        extend: add the grid's cells to the file of another grid. What is done there stays, and is not
            run again where both grids have it.
        progress: called when a cell begins and when it ends.

    Returns:
        The results, open for reading.

    Raises:
        GridError: what the grid says cannot be meant.
        StoreError: the file is in use, damaged, full, or of something else; data, a checkpoint or
            the versions of packages have changed since it was begun; the file holds another grid and
            `extend` is off, or a label means something else in it.
    """
    grid = _read(grid, changes)
    check_least("--workers", workers)
    check_least("--threads", threads)
    check_combinations(grid)
    with Store.create(out, grid.plain(), extend=extend, versions=versions()) as store:
        try:
            loaded = _plan(store, grid, retry_failed)
        except LightKVError:
            if not store.cells():  # what cannot be run leaves nothing behind
                store.path.unlink(missing_ok=True)
            raise
        share = threads_of(store, threads, workers)
        if workers > 1 or ray is not None:
            loaded = None  # each worker loads its own
        if retry_failed:
            for cell in store.cells():
                if cell.status == "failed":
                    store.reset(cell)
        if any(cell.status == "pending" for cell in store.cells()):
            run = _Run(store, progress or (lambda step: None), workers)
            with _workers(workers, ray, share, loaded) as pool:
                run.all(pool)
    return Store.open(out)


def _read(grid: Grid | str | Path | Mapping[str, Any], changes: Mapping[str, Any] | None) -> Grid:
    if isinstance(grid, str | Path):
        return Grid.read(grid, changes)
    if changes:
        raise GridError(
            "only the values of a file are changed",
            field="changes",
            value=", ".join(changes),
            remedy="set them in the grid, or give the path of its YAML",
        )
    return Grid.parse(grid)


def _plan(store: Store, grid: Grid, retry_failed: bool) -> Loaded | None:
    """Write the cells of a new file, or of a grid that extends one; check an old one.

    Returns the model, if it was loaded.
    """
    there = store.cells()
    if there and store.holds(grid.plain()):
        check_unchanged(store, there, retry_failed)
        return None
    if there:
        check_labels(store, grid)
        check_unchanged(store, there, more=True)
    last: dict[tuple[str, str], Subject] = {}

    def load(model: str, dtype: str) -> Subject:
        last.clear()
        return last.setdefault((model, dtype), Subject.load(model, dtype=dtype))

    planned = plan_cells(grid, load, there)
    if there:
        _extend(store, grid, there, planned)
    else:
        against = baselines(grid, planned)
        # Cells come last: a file without any was stopped in here and is planned anew.
        told = remarks(grid, planned)
        store.update_meta(**_compared(against), **begun_with(planned), remarks=told)
        store.add_cells(planned)
    return next(iter(last.items()), None)


def _extend(store: Store, grid: Grid, there: Sequence[Cell], planned: Sequence[Cell]) -> None:
    """Add the cells of a grid to a file that has others."""
    cells = merged(store, there, planned)
    before = store.meta.get("baselines", {})
    against = merged_baselines(grid, before, there, planned, cells)
    models = {**begun_with(planned)["models"], **store.meta.get("models", {})}
    told = {**store.meta.get("remarks", {}), **remarks(grid, planned)}
    store.replace_cells(cells, grid.plain(), models=models, remarks=told, **_compared(against))


def _compared(against: dict[str, str]) -> dict[str, Any]:
    """What `meta` says of baselines."""
    one = set(against.values())
    return {"baselines": against, "baseline": one.pop() if len(one) == 1 else None}


def threads_of(store: Store, wanted: int | None, workers: int = 1) -> int:
    """Threads of each worker: as asked for, else as in the run that began the file.

    Sums of floats depend on how many threads share them, in the last digits of a log-probability; so
    the number of workers must not change it in the middle.
    """
    import torch

    found = wanted or store.meta.get("threads") or max(1, torch.get_num_threads() // workers)
    store.update_meta(threads=int(found))
    return int(found)


@contextmanager
def _workers(workers: int, ray: str | None, share: int, loaded: Loaded | None) -> Iterator[_Pool]:
    if ray is not None:
        from lightkv.lab.grids.ray_pool import RayPool

        with RayPool(ray, workers, share) as cluster:
            yield cluster
    elif workers > 1:
        with Pool(workers, share) as pool:
            yield pool
    else:
        import torch

        before = torch.get_num_threads()
        try:
            yield Here(Worker(share, loaded))
        finally:
            torch.set_num_threads(before)


class _Run:
    """One run over what is pending in a store."""

    def __init__(self, store: Store, progress: Report, workers: int) -> None:
        self._store = store
        self._progress = progress
        self._workers = workers
        self._cells = {cell.id: cell for cell in store.cells()}
        self._remaining = Remaining(list(self._cells.values()), workers)
        self._pending = [cell for cell in self._cells.values() if cell.status == "pending"]
        self._done = 0
        self._failed = 0

    def all(self, pool: _Pool) -> None:
        """First what others are compared with sample by sample, then the rest."""
        self._progress(Progress(0, len(self._pending), left=self._remaining.seconds()))
        first = [cell for cell in self._pending if _gives_reference(cell)]
        rest = [cell for cell in self._pending if not _gives_reference(cell)]
        self._wave(pool, first)
        self._wave(pool, rest)

    def _wave(self, pool: _Pool, cells: Sequence[Cell]) -> None:
        jobs = []
        for cell in cells:
            job = self._job(cell)
            if isinstance(job, str):
                self._store.fail(cell, job)
                self._ended(cell, failed=True)
            else:
                jobs.append(job)
        running: dict[str, Cell] = {}

        def started(identity: str) -> None:
            running[identity] = self._cells[identity]
            self._store.start(running[identity])
            self._remaining.started(running[identity])
            self._tell(running[identity])

        try:
            for result in pool.run(jobs, started):
                cell = running[result.id]
                if result.error is not None:
                    self._store.fail(cell, result.error)
                else:
                    self._store.finish(finished(cell, result), result.outcomes)
                del running[result.id]
                self._ended(cell, failed=result.error is not None)
        except KeyboardInterrupt:
            for cell in running.values():
                self._store.reset(cell)
            raise

    def _job(self, cell: Cell) -> Job | str:
        """What to run; or why not, where the reference that it needs is missing."""
        if not _needs_reference(cell) or _gives_reference(cell):
            return Job(cell.id, cell.spec, workers=self._workers)
        same = ("model", "dtype", "task", "data")
        for other in self._store.cells():
            if _gives_reference(other) and all(other.spec[k] == cell.spec[k] for k in same):
                if other.status != "done":
                    return "the uncompressed model failed on this task"
                answers = {o.sample: o.answer for o in self._store.outcomes(other.id)}
                return Job(cell.id, cell.spec, answers, self._workers)
        return "the uncompressed model was not run on this task"

    def _ended(self, cell: Cell, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        self._remaining.ended(cell, failed)
        self._tell(cell)

    def _tell(self, cell: Cell) -> None:
        left = self._remaining.seconds()
        self._progress(Progress(self._done, len(self._pending), self._failed, cell, left))


def _needs_reference(cell: Cell) -> bool:
    return tasks()[cell.spec["task"]["name"]].needs_reference


def _gives_reference(cell: Cell) -> bool:
    """Whether it is the uncompressed model on a task whose other cells are compared with it."""
    return _needs_reference(cell) and not cell.spec["pipeline"] and cell.status != "skipped"
