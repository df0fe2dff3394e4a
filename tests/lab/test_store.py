"""The results file: what is written comes back, and what cannot be trusted is refused."""

import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from lightkv.lab import ablate, report
from lightkv.lab.errors import StoreError
from lightkv.lab.grids.store import MAGIC, SCHEMA, Store
from lightkv.lab.outcomes import Cell, Measured, Outcome

GRID = {"name": "g", "retention": [0.5]}


def cell(number=0, **changes):
    made = Cell(f"id{number}", number, f"cell {number}", {"a": str(number)}, {"seed": number})
    return replace(made, **changes)


def answers(number=3, answer="3"):
    return [
        Outcome(f"s{i}", f"c{i // 2}", "count", "how many ?", answer, i % 2, 0.5)
        for i in range(number)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


@pytest.fixture
def filled(path):
    with Store.create(path, GRID, baseline="cell 0", versions={"torch": "2"}) as store:
        store.add_cells([cell(0), cell(1), cell(2)])
        done = cell(
            0,
            versions={"torch": "2"},
            seconds=1.5,
            retention=0.5,
            flops=0.6,
            kv_bytes=0.7,
            tokens=(4.0, 2.5),
        )
        store.start(cell(0))
        store.finish(done, answers())
        store.fail(cell(1), "boom")
    return path


def test_round_trip(filled):
    with Store.open(filled) as store:
        assert store.meta["schema"] == SCHEMA
        assert store.meta["grid"] == GRID
        assert store.meta["baseline"] == "cell 0"
        done, failed, left = store.cells()
        assert (done.status, failed.status, left.status) == ("done", "failed", "pending")
        assert done.tokens == (4.0, 2.5)
        assert (done.seconds, done.retention, done.flops, done.kv_bytes) == (1.5, 0.5, 0.6, 0.7)
        assert done.factors == {"a": "0"}
        assert failed.reason == "boom"
        assert store.outcomes("id0") == answers()
        assert store.outcomes("id1") == []
        with pytest.raises(StoreError, match="cannot write"):
            store.fail(left, "no")


def test_running_cells_of_a_dead_process_are_pending_again(filled):
    with Store.create(filled, GRID) as store:
        store.start(cell(2))
    with Store.create(filled, GRID) as store:
        assert [c.status for c in store.cells()] == ["done", "failed", "pending"]


def test_cells_of_a_killed_process_are_interrupted_to_a_reader(filled):
    """A real kill -9: while the process lives its cell is running, then it is not."""
    code = f"""
        import os, signal
        from lightkv.lab.grids.store import Store
        store = Store.create({str(filled)!r}, {GRID!r})
        store.start(store.cells()[2])
        with Store.open({str(filled)!r}) as reader:
            print(reader.cells()[2].status, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-9, "running\n")
    with Store.open(filled) as store:
        dead = store.cells()[2]
        assert dead.status == "interrupted"
        assert "runs it again" in dead.reason
    report(filled, filled.with_suffix(".html"))
    assert "1 interrupted when" in filled.with_suffix(".html").read_text()
    with Store.create(filled, GRID) as store:
        assert store.cells()[2].status == "pending"


def test_a_reader_that_looks_does_not_stop_a_writer(filled, monkeypatch):
    import fcntl

    plain, held = fcntl.flock, filled.open("rb")
    plain(held, fcntl.LOCK_SH)
    monkeypatch.setattr("lightkv.lab.grids.store.time.sleep", lambda seconds: held.close())
    Store.create(filled, GRID).close()
    assert held.closed


def test_measurements_come_back_and_old_files_have_none(filled):
    measured = Measured(0.02, 0.01, 0.03, 3, 4096, "a machine", 1, 4)
    assert measured.where == "a machine, 1 thread, 4 processes"
    with Store.create(filled, GRID) as store:
        assert {each.measured for each in store.cells()} == {None}
        store.finish(cell(2, measured=measured), answers())
        store.finish(cell(2, measured=replace(measured, prompts=5)), answers())
        assert [each.measured for each in store.cells()] == [
            None,
            None,
            replace(measured, prompts=5),
        ]
        store.fail(cell(2), "boom")
        assert store.cells()[2].measured is None
        store.finish(cell(2, measured=measured), answers())
    with sqlite3.connect(filled) as database:
        database.execute("UPDATE measured SET peak_bytes = 'much'")
    database.close()
    with Store.open(filled) as store, pytest.raises(StoreError, match=r"damaged .*peak_bytes"):
        store.cells()


def test_finishing_twice_doubles_nothing(filled):
    with Store.create(filled, GRID) as store:
        store.finish(cell(0), answers(2, "4"))
        assert store.outcomes("id0") == answers(2, "4")


def test_a_transaction_that_fails_leaves_nothing(filled):
    with Store.create(filled, GRID) as store:
        with pytest.raises(StoreError):
            store.finish(cell(2), answers(2) + answers(1))  # the same sample twice
        assert store.cells()[2].status == "pending"
        assert store.outcomes("id2") == []


def test_another_grid_is_refused(filled):
    before = filled.read_bytes()
    with pytest.raises(StoreError, match="another grid"):
        Store.create(filled, {"name": "other"})
    assert filled.read_bytes() == before


def test_two_writers(filled):
    code = f"""
        from lightkv.lab.grids.store import Store
        from lightkv.core.errors import LightKVError
        try:
            Store.create({str(filled)!r}, {GRID!r})
        except LightKVError as error:
            print(type(error).__name__, error)
        with Store.open({str(filled)!r}) as store:
            print(len(store.cells()))
    """
    with Store.create(filled, GRID) as store:
        store.start(cell(2))
        out = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert out[0].startswith("StoreError")
        assert "locked" in out[0]
        assert out[1] == "3"  # readers are welcome


def test_a_locked_file_is_named(filled, monkeypatch):
    monkeypatch.setattr("lightkv.lab.grids.store.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        Store.open(filled)
    with pytest.raises(StoreError, match="locked"):
        Store.create(filled, GRID)
    other.execute("ROLLBACK")
    other.close()
    with Store.open(filled) as store:
        assert len(store.cells()) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"name,score\n", "not a results file"),
        (lambda data: data[:5000], "damaged"),
        (lambda data: MAGIC + bytes(4000), "damaged"),
        (lambda data: data[:4096] + b"\xff" * 4096 + data[8192:], "damaged"),
    ],
    ids=["text", "truncated", "header", "overwritten"],
)
def test_damaged_files_are_refused_and_left(filled, damage, message):
    broken = damage(filled.read_bytes())
    filled.write_bytes(broken)
    for use in (Store.open, lambda path: Store.create(path, GRID)):
        with pytest.raises(StoreError, match=message):
            use(filled)
        assert filled.read_bytes() == broken


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE cells SET spec = '[]'", "spec"),
        ("UPDATE cells SET spec = '{\"pipeline\": 3}'", "spec"),
        ("UPDATE cells SET spec = '{\"model\": [1]}'", "spec"),
        ("UPDATE cells SET spec = 'no json'", "JSON"),
        ("UPDATE cells SET factors = '{\"a\": 1}'", "factors"),
        ("UPDATE cells SET versions = '{\"a\": []}'", "versions"),
        ("UPDATE cells SET status = 'eaten'", "status"),
        ("UPDATE cells SET retention = 'half'", "retention"),
        ("UPDATE cells SET flops = 9e999", "flops"),
        ("UPDATE cells SET tokens = '[\"many\"]'", "tokens"),
        ("UPDATE cells SET tokens = '[NaN]'", "tokens"),
        ("UPDATE samples SET score = 'good'", "score"),
        ("UPDATE samples SET score = -9e999", "score"),
        ("UPDATE samples SET cluster = x'00'", "cluster"),
        ("INSERT OR REPLACE INTO meta VALUES ('baselines', '[1]')", "baselines"),
        ("INSERT OR REPLACE INTO meta VALUES ('baselines', '{\"a\": 1}')", "baselines"),
        ("INSERT OR REPLACE INTO meta VALUES ('baseline', '1')", "baseline"),
        ("INSERT OR REPLACE INTO meta VALUES ('versions', '3')", "versions"),
        ("INSERT OR REPLACE INTO meta VALUES ('grid', '3')", "grid"),
        ("INSERT OR REPLACE INTO meta VALUES ('grid', '{')", "JSON"),
    ],
)
def test_contents_that_no_run_writes_are_damage(filled, statement, what):
    with sqlite3.connect(filled) as database:
        database.execute(statement)
    database.close()

    def read():
        with Store.open(filled) as store:
            return store.cells(), store.outcomes("id0")

    with pytest.raises(StoreError, match=rf"damaged .*{what}.*restore it"):
        read()
    with pytest.raises(StoreError, match=f"damaged .*{what}"):
        report(filled, filled.with_suffix(".html"))


def test_other_versions_and_programs_are_refused(filled, tmp_path):
    with sqlite3.connect(filled) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE t (x)")
    database.close()
    for path, message in ((filled, f"version {SCHEMA + 1}"), (foreign, "another program")):
        before = path.read_bytes()
        for use in (Store.open, lambda path: Store.create(path, GRID)):
            with pytest.raises(StoreError, match=message):
                use(path)
        assert path.read_bytes() == before


def test_missing_files_and_places(tmp_path):
    with pytest.raises(StoreError, match="no such results file"):
        Store.open(tmp_path / "none.sqlite")
    with pytest.raises(StoreError, match="folder does not exist"):
        Store.create(tmp_path / "no" / "r.sqlite", GRID)
    with pytest.raises(StoreError, match="directory"):
        Store.create(tmp_path, GRID)


def test_a_full_disk_stops_cleanly(filled):
    """A page limit makes SQLite see a full disk."""
    with Store.create(filled, GRID) as store:
        pages = store._one("PRAGMA page_count")
        store._run(f"PRAGMA max_page_count = {pages + 1}")
        many = [replace(o, sample=f"x{i}") for i in range(400) for o in answers(1)]
        with pytest.raises(StoreError, match="full"):
            store.finish(cell(2), many)
        assert store.outcomes("id0") == answers()
    with Store.create(filled, GRID) as store:
        assert [c.status for c in store.cells()] == ["done", "failed", "pending"]
        store.finish(cell(2), many)
        assert len(store.outcomes("id2")) == 400


def test_a_write_limit_of_the_system_stops_cleanly(filled):
    """The same with the real error of a write that the system refuses."""
    resource = pytest.importorskip("resource")
    code = f"""
        import resource, signal
        from lightkv.lab.grids.store import Store
        from lightkv.lab.outcomes import Cell, Measured, Outcome
        from lightkv.core.errors import LightKVError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store.create({str(filled)!r}, {GRID!r})
        limit = {filled.stat().st_size + 2048}
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        rows = [Outcome(f"x{{i}}", "c", "k", "q" * 50, "a", 1.0) for i in range(3000)]
        try:
            store.finish(store.cells()[2], rows)
        except LightKVError as error:
            print(type(error).__name__, error)
    """
    assert resource.RLIMIT_FSIZE is not None
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith("StoreError")
    assert "make room" in out
    with Store.open(filled) as store:
        assert store.outcomes("id0") == answers()
        assert store.cells()[2].status == "pending"


def test_a_killed_creation_is_begun_anew(path):
    path.touch()
    with Store.create(path, GRID) as store:
        store.add_cells([cell()])
    with Store.open(path) as store:
        assert [c.name for c in store.cells()] == ["cell 0"]


def test_a_file_without_cells_takes_another_grid(path):
    """A run that found its grid wrong while planning is begun again with the grid put right."""
    Store.create(path, {"name": "wrong"}).close()
    with Store.create(path, GRID) as store:
        store.add_cells([cell()])
    with Store.open(path) as store:
        assert store.meta["grid"] == GRID


def test_a_file_of_version_0_1_is_read_and_left_as_it_is(path):
    """`results-0.1.sql` is the dump of a finished grid that lightkv 0.1 ran on the demo."""
    dump = Path(__file__).with_name("results-0.1.sql").read_text(encoding="utf-8")
    with sqlite3.connect(path) as database:
        database.executescript(dump)
        database.execute("PRAGMA application_id = 0x6C6B7662")
        database.execute("PRAGMA user_version = 1")
    before = list(database.iterdump())
    with Store.open(path) as store:
        grid = store.meta["grid"]
        assert [cell.name for cell in store.cells()] == ["vanilla", "retention=0.35"]
        [outcome] = store.outcomes(store.cells()[1].id)
        assert (outcome.answer, outcome.score) == ("3", 1.0)
    ablate(grid, out=path).close()  # the same grid, with nothing left to run
    assert list(database.iterdump()) == before
    with Store.create(path, grid) as store:  # written back, it is what it was
        for cell in store.cells():
            store.finish(cell, store.outcomes(cell.id))
    assert list(database.iterdump()) == before
    database.close()
