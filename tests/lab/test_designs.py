"""A search on the bundled model: interrupted and gone on with, tested once, shown on a page."""

import json
import re
from dataclasses import replace

import pytest

pytest.importorskip("optuna")

from lightkv.core.errors import ConfigError
from lightkv.lab import SearchStudy, ablate, search_designs, search_page
from lightkv.lab.designs import drawing, run
from lightkv.lab.designs.plain import plain
from lightkv.lab.errors import SearchError, StoreError
from lightkv.lab.grids.store import Store

DATA = {"name": "scenes", "scenes": 8, "kinds": ["count"]}
STUDY = {
    "name": "small <i>",
    "task": {**DATA, "seed": 5},
    "held_out": {**DATA, "seed": 6},
    "retention": [0.5, 0.05],
    "space": {
        "scorer": {"any": ["uniform", "causal-attention"]},
        "schedule": {"any": {"one": {"after_layer": {"from": 2, "to": 4}}, "own": {}}},
    },
    "start": ["fastv"],
    "trials": 5,
    "sampler": "random",
}


def table(path):
    """All that a results file says of its cells, but for times."""
    with Store.open(path) as store:
        cells = [replace(cell, seconds=None) for cell in store.cells()]
        return cells, [store.outcomes(cell.id) for cell in cells]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "whole.sqlite"
    found = search_designs(STUDY, out=path)
    return path, found


def test_trials_are_cells(searched):
    path, found = searched
    cells, outcomes = table(path)
    assert [cell.name for cell in cells] == [
        "vanilla",
        "fastv retention=0.5",
        "fastv retention=0.05",
        *(f"trial {number}" for number in range(5)),
    ]
    assert {cell.factors["retention"] for cell in cells[3:]} == {"0.5", "0.05"}
    for cell, some in zip(cells, outcomes, strict=True):
        assert len(some) == (8 if cell.status == "done" else 0)
        if cell.status == "skipped":  # out of reach, or drawn twice
            assert cell.reason
    ran = [t for t in found.tried if t.finished]
    assert any(t.drawn for t in ran)
    assert found.front
    for tried in ran:
        assert tried.sure.low <= tried.change <= tried.sure.high
        assert tried.change == pytest.approx(tried.sure.value)
        assert tried.cell.flops < 1


def test_a_search_that_stops_goes_on_with_the_same_trials(searched, tmp_path, monkeypatch):
    path = tmp_path / "part.sqlite"

    def stop(step):
        if step.cell == "fastv retention=0.5":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_designs(STUDY, out=path, progress=stop)
    search_designs({**STUDY, "trials": 1}, out=path)
    ask = run.Asker.ask
    monkeypatch.setattr(run.Asker, "ask", lambda *args: ask(*args) and interrupt())
    with pytest.raises(KeyboardInterrupt):
        search_designs(STUDY, out=path)
    monkeypatch.setattr(run.Asker, "ask", ask)
    search_designs(STUDY, out=path)
    assert table(path) == table(searched[0])
    monkeypatch.setattr(run.Asker, "ask", lambda *args: pytest.fail("asked again"))
    search_designs(STUDY, out=path)


def interrupt():
    raise KeyboardInterrupt


def test_held_out_data_are_asked_once(searched, tmp_path, monkeypatch):
    path = tmp_path / "tested.sqlite"
    path.write_bytes(searched[0].read_bytes())
    found = search_designs(STUDY, out=path, test=True)
    assert {test.name for test in found.tests} == {tried.cell.name for tried in found.chosen}
    assert found.test_samples == 8
    assert all(duel.hand_made.startswith("fastv") for duel in found.duels)
    data = json.loads(json.dumps(plain(found)))
    assert data["trials"]["drawn"] == sum(n for key, n in data["trials"].items() if key != "drawn")
    assert data["trials"]["drawn"] == 5
    assert [each["held_out"]["value"] for each in data["designs"]] == [
        next(test.change.value for test in found.tests if test.name == each["name"])
        for each in data["designs"]
    ]
    assert [each["change"]["value"] for each in data["duels"]] == [
        duel.change.value for duel in found.duels
    ]
    assert plain(searched[1])["duels"] == []
    assert all(each["held_out"] is None for each in plain(searched[1])["designs"])
    assert data["best"][0]["hand_made"] == "fastv retention=0.5"
    monkeypatch.setattr(run.Asker, "ask", lambda *args: pytest.fail("asked again"))
    again = search_designs(STUDY, out=path, test=True)
    assert again.tests == found.tests
    with pytest.raises(StoreError, match="with them in mind"):
        search_designs({**STUDY, "trials": 9}, out=path)


def test_the_page_holds_the_front_the_choices_and_the_test(searched, tmp_path):
    pytest.importorskip("plotly")
    out = tmp_path / "page.html"
    found = search_page(searched[0], out)
    text = out.read_text()
    assert "small &lt;i&gt;" in text
    assert "small <i>" not in text
    assert "have not been asked" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    ringed = data["front"]["data"][-1]
    assert len(ringed["x"]) == len(found.front)
    for tried in found.tried:
        assert f">{tried.cell.name}</button>" in text
    with pytest.raises(ConfigError, match="overwrite"):
        search_page(searched[0], searched[0])


def test_other_studies_samplers_and_grids_are_refused(searched, tmp_path, monkeypatch):
    path = searched[0]
    with pytest.raises(StoreError, match="another grid"):
        search_designs({**STUDY, "seed": 1}, out=path)
    with pytest.raises(StoreError, match="another grid"):
        ablate({"task": STUDY["task"]}, out=path)
    rounded = drawing.Drawing.draw

    def other(self):
        found = rounded(self)
        return replace(found, chosen={**found.chosen, "scorer": "none"})

    monkeypatch.setattr(drawing.Drawing, "draw", other)
    with pytest.raises(StoreError, match="optuna was"):
        search_designs(STUDY, out=path)


def test_held_out_data_that_the_search_sees_are_refused(tmp_path):
    same = {**STUDY, "held_out": {**DATA, "seed": 5, "scenes": 9}}
    with pytest.raises(SearchError, match="8 of the held-out pictures"):
        search_designs(same, out=tmp_path / "a.sqlite")
    with pytest.raises(SearchError, match="no data out"):
        search_designs({**STUDY, "held_out": None}, out=tmp_path / "b.sqlite", test=True)
    with pytest.raises(SearchError, match="4 pictures"):
        search_designs({**STUDY, "held_out": 0.5}, out=tmp_path / "c.sqlite")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_say_the_same_again(sampler, monkeypatch):
    monkeypatch.setattr(drawing, "STARTUP", 2)
    study = SearchStudy.parse({**STUDY, "sampler": sampler})

    def course():
        made = drawing.Drawing(study)
        for number in range(10):
            found = made.draw()
            made.tell(None if number == 3 else len(str(found.chosen)) % 7, found.retention)
            yield found

    first = list(course())
    assert first == list(course())
    assert [found.retention for found in first] == [0.5, 0.05] * 5
