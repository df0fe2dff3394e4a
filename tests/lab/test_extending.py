"""A grid that grows: what is done stays, what is new is run, and what does not fit is refused."""

import copy

import pytest
from tables import table

from lightkv.lab import Store, ablate, report
from lightkv.lab.errors import StoreError
from lightkv.lab.grids import worker

GRID = {
    "name": "small",
    "task": {"name": "scenes", "scenes": 2, "seed": 5, "kinds": ["count"]},
    "retention": [0.5],
    "axes": {"guidance": {"prompt": {}, "uniform": {"scorer": "uniform"}}},
    "baseline": {"guidance": "prompt"},
}


def grown(**changes):
    return {**copy.deepcopy(GRID), **changes}


def statuses(store):
    return {cell.name: cell.status for cell in store.cells()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("grown") / "made.sqlite"
    ablate(GRID, out=path).close()
    return path


@pytest.fixture
def path(made, tmp_path):
    copied = tmp_path / "r.sqlite"
    copied.write_bytes(made.read_bytes())
    return copied


@pytest.fixture
def ran(monkeypatch):
    """Identities of the cells that run."""
    found, plain = [], worker.Worker.run

    def noted(self, job):
        found.append(job.id)
        return plain(self, job)

    monkeypatch.setattr(worker.Worker, "run", noted)
    return found


def test_only_what_is_new_is_run(path, ran, tmp_path):
    """More retentions and seeds: the same as if all had been run at once, names included."""
    with Store.open(path) as store:
        before = store.cells()
        held = {cell.id: store.outcomes(cell.id) for cell in before}
    more = grown(retention=[0.5, 0.3], seeds=[0, 1])
    with pytest.raises(StoreError, match=r"another grid.*--extend"):
        ablate(more, out=path)
    with ablate(more, out=path, extend=True) as store:
        after = {cell.id: cell for cell in store.cells()}
        for cell in before:
            assert after[cell.id].seconds == cell.seconds  # not run again
            assert store.outcomes(cell.id) == held[cell.id]
        assert store.meta["earlier"][0]["retention"] == [0.5]
    assert not set(ran) & {cell.id for cell in before}
    ablate(more, out=tmp_path / "whole.sqlite").close()
    assert table(path) == table(tmp_path / "whole.sqlite")
    ran.clear()
    ablate(more, out=path).close()  # it is the file's grid now
    ablate(GRID, out=path).close()  # and so is the old one
    ablate(GRID, out=path, extend=True).close()
    assert ran == []
    report(path, path.with_suffix(".html"))


def test_a_grid_of_nothing_but_new_cells(path, ran):
    """Cells that only the file has stay in front, with their baseline."""
    more = grown(cells=[{"name": "random", "base": "random"}], axes={}, baseline=None)
    with ablate(more, out=path, extend=True) as store:
        assert list(statuses(store)) == [
            "guidance=prompt retention=0.5",
            "guidance=uniform retention=0.5",
            "vanilla",
            "retention=0.5",
            "random retention=0.5",
        ]
        assert list(statuses(store).values()) == ["done"] * 3 + ["skipped", "done"]
        # The new grid says less of it than the file does.
        assert store.cells()[3].reason == "computes the same as 'guidance=prompt retention=0.5'"
        against = store.meta["baselines"]
    assert against["guidance=uniform retention=0.5"] == "guidance=prompt retention=0.5"
    assert against["random retention=0.5"] == "vanilla"
    assert len(ran) == 1


def test_a_new_axis_and_what_computes_the_same(path, ran):
    """Labels of a new axis that change nothing take up what is there, under the longer name."""
    axes = {**GRID["axes"], "mean": {"weighted": {}, "again": {}}}
    with ablate(grown(axes=axes), out=path, extend=True) as store:
        found = statuses(store)
        reasons = [cell.reason for cell in store.cells() if cell.status == "skipped"]
    assert ran == []
    assert list(found.values()).count("done") == 3
    assert sorted(reasons) == [
        f"computes the same as 'guidance={label} mean=weighted retention=0.5'"
        for label in ("prompt", "uniform")
    ]


def test_what_is_done_is_not_given_up_for_a_rule(path, ran):
    skip = [{"where": {"guidance": "uniform"}, "reason": "dull"}]
    with ablate(grown(skip=skip), out=path, extend=True) as store:
        assert statuses(store)["guidance=uniform retention=0.5"] == "done"
    assert ran == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"task": {**GRID["task"], "seed": 6}}, "task, scenes: seed was 5 and is 6"),
        ({"base": "tome"}, 'base: name was "lightkv" and is "tome"'),
        ({"dtype": "bfloat16"}, 'dtype: was "auto" and is "bfloat16"'),
        (
            {"axes": {"guidance": {"prompt": {}, "uniform": {"scorer": "size"}}}},
            'axes, guidance, uniform: scorer was "uniform" and is "size"',
        ),
    ],
    ids=["task", "base", "dtype", "label"],
)
def test_labels_keep_their_meaning(path, changes, what):
    before = path.read_bytes()
    with pytest.raises(StoreError, match="cannot extend") as error:
        ablate(grown(**changes), out=path, extend=True)
    assert what in str(error.value)
    assert path.read_bytes() == before


def test_a_change_since_then_is_refused_with_what_differs(path, monkeypatch, tmp_path):
    more = grown(retention=[0.5, 0.4])
    with monkeypatch.context() as patch:
        patch.setattr("lightkv.__version__", "9.9")
        with pytest.raises(StoreError, match=r"lightkv was .* and is 9\.9"):
            ablate(more, out=path, extend=True)
    monkeypatch.setattr("lightkv.lab.tasks.base.Task.fingerprint", lambda self: "other")
    with pytest.raises(StoreError, match=r"data have changed \(scenes: .* and is other\)"):
        ablate(more, out=path, extend=True)


def test_a_stop_while_planning_changes_nothing(path, monkeypatch):
    def stop(*given, **more):
        raise KeyboardInterrupt

    with Store.open(path) as store:
        before = store.cells()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "replace_cells", stop)
        with pytest.raises(KeyboardInterrupt):
            ablate(grown(retention=[0.5, 0.4]), out=path, extend=True)
    with Store.open(path) as store:
        assert store.cells() == before
    ablate(GRID, out=path).close()
