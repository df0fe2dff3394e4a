"""Processes that die: the cell that they had costs a second try, the others nothing."""

import os
import signal
from pathlib import Path

from lightkv.lab.grids import worker
from lightkv.lab.grids.pools import Pool


def test_a_process_that_dies_costs_its_cell_only():
    """One cell makes its process end itself, twice; the others are done by another one."""
    with Pool(1, 1) as pool:
        jobs = [Dies("a", {}), worker.Job("b", {"model": "none"})]
        results = list(pool.run(jobs, lambda name: None))
    assert [r.id for r in results] == ["a", "b"]
    assert results[0].error == "its process ended twice, with exit code 9"
    assert results[1].error.startswith("KeyError")


def test_a_job_whose_process_was_killed_is_tried_again(tmp_path):
    with Pool(1, 1) as pool:
        (result,) = pool.run([DiesOnce("a", {"path": str(tmp_path / "died")})], lambda name: None)
        assert (tmp_path / "died").exists()
        assert result.error.startswith("KeyError")  # it came to be run
        for process in pool._processes.values():  # now idle
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        (result,) = pool.run([worker.Job("b", {"model": "none"})], lambda name: None)
        assert result.error.startswith("KeyError")


class Dies(worker.Job):
    """Ends the process that opens it."""

    def __reduce__(self):
        return os._exit, (9,)


class DiesOnce(worker.Job):
    """Ends the first process that opens it."""

    def __reduce__(self):
        return dies_once, (self.id, self.spec)


def dies_once(identity, spec):
    path = Path(spec["path"])
    if not path.exists():
        path.touch()
        os._exit(9)
    return worker.Job(identity, spec)
