"""Cells and samples as rows, CSV, JSON and frames; and results files beside one another."""

import csv
import json
import sys
import types
from dataclasses import replace

import pytest
from synthetic_study import study, write

from lightkv.core.errors import ConfigError
from lightkv.lab import (
    Measured,
    Store,
    compare,
    export,
    frame,
    paired,
    report,
    rows,
    summary,
)
from lightkv.lab.errors import StoreError
from lightkv.lab.search.loss_bounds import margin
from lightkv.lab.stats import TAIL, mean_interval, unpaired

SMALL = {"mean": {"weighted": 0.0, "plain": 0.05, "half": 0.1, "none": 0.2}}
MEASURED = Measured(0.02, 0.01, 0.03, 5, 4096, "a machine", 2)


def small(seed=0, **changes):
    return study(clusters=4, retentions=(0.5,), axes=SMALL, seed=seed, **changes)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = write(tmp_path_factory.mktemp("flat") / "one.sqlite", *small())
    with Store.create(found, small()[2]["grid"]) as store:
        first = store.cells()[0]
        store.finish(replace(first, measured=MEASURED), store.outcomes(first.id))
    return found


def test_rows_of_cells_are_those_of_the_table(path):
    found = rows(path)
    with Store.open(path) as store:
        lines = summary(store)
        assert rows(store) == found
    assert [row["name"] for row in found] == [line.cell.name for line in lines]
    assert len({tuple(row) for row in found}) == 1  # the same columns
    for row, line in zip(found, lines, strict=True):
        assert (row["mean"], row["mean_low"], row["mean_high"]) == (line.mean, line.low, line.high)
        assert row["status"] == line.cell.status
        if line.difference is not None:
            gap = line.difference
            assert row["difference"] == gap.difference
            assert (row["difference_low"], row["difference_high"]) == (gap.low, gap.high)
            assert (row["samples"], row["difference_holm_p"]) == (gap.n, line.holm)
    assert found[1]["factor_mean"] == "weighted"  # an axis may have the name of a column
    assert json.loads(found[1]["pipeline"])["name"] == "mine"
    assert (found[0]["measured_first_token"], found[0]["measured_peak_bytes"]) == (0.02, 4096)
    assert found[1]["measured_machine"] is None


def test_bounds_are_the_same_everywhere(path, tmp_path):
    """In the table of ablate, the report, an export, a comparison, and where tune decides."""
    other_name = other(tmp_path)
    page = report(path, tmp_path / "page.html")
    flat = {row["name"]: row for row in rows(path)}
    beside = {pair.cell.name: pair for pair in compare([path, other_name], to="vanilla").pairs}
    with Store.open(path) as store:
        lines = [line for line in summary(store) if line.difference is not None]
        [base, *_] = store.cells()
        own = {line.cell.name: store.outcomes(line.cell.id) for line in lines}
        vanilla = store.outcomes(base.id)
    assert lines
    for line in lines:
        name, gap = line.cell.name, line.difference
        bounds = gap.difference, gap.low, gap.high
        [row] = [row for row in page.rows if row.cell.name == name]
        assert (row.change.value, row.change.low, row.change.high) == bounds
        flat_bounds = (flat[name][f"difference{end}"] for end in ("", "_low", "_high"))
        assert tuple(flat_bounds) == bounds
        assert beside[name].difference == gap
        tuned = margin(vanilla, own[name], TAIL)  # one-sided, each at the end of an interval
        assert (tuned.difference, tuned.low, tuned.high) == bounds


def test_rows_of_samples(path):
    found = rows(path, "samples")
    with Store.open(path) as store:
        done = [cell for cell in store.cells() if cell.status == "done"]
        assert len(found) == sum(len(store.outcomes(cell.id)) for cell in done)
        first = store.outcomes(done[0].id)[0]
    assert found[0]["sample"] == first.sample
    assert (found[0]["score"], found[0]["factor_cell"]) == (first.score, "vanilla")
    with pytest.raises(ConfigError, match="Did you mean 'cells'"):
        rows(path, "cell")


def test_the_uncompressed_model_is_compared_with_whatever_the_baseline_is(path):
    flat = {row["name"]: row for row in rows(path)}
    assert flat["vanilla"]["vanilla_difference"] is None
    with Store.open(path) as store:
        named = {cell.name: cell for cell in store.cells() if cell.status == "done"}
        answers = {name: store.outcomes(cell.id) for name, cell in named.items()}
        own = "mean=weighted retention=0.5"
        store.meta["baselines"] = dict.fromkeys(named, own)
        found = {row["name"]: row for row in rows(store)}
    for name, some in answers.items():
        if name != "vanilla":
            gap = paired(answers["vanilla"], some)
            bounds = gap.difference, gap.low, gap.high
            assert _bounds(found[name], "vanilla") == bounds == _bounds(flat[name], "vanilla")
        assert found[name]["clusters"] == len({outcome.cluster for outcome in some}) == 4
        if name != own:
            assert found[name]["difference"] == paired(answers[own], some).difference


def _bounds(row, name):
    return row.get(f"{name}_difference"), row[f"{name}_low"], row[f"{name}_high"]


def test_rows_of_kinds(path):
    found = rows(path, "kinds")
    with Store.open(path) as store:
        done = {c.name: store.outcomes(c.id) for c in store.cells() if c.status == "done"}
    assert len(found) == len(done) * 6
    assert len({tuple(row) for row in found}) == 1
    for row in found:
        scores = [o.score for o in done[row["name"]] if o.kind == row["kind"]]
        base = [o.score for o in done["vanilla"] if o.kind == row["kind"]]
        assert row["samples"] == len(scores) == 4
        assert row["mean"] == pytest.approx(sum(scores) / 4, abs=1e-12)
        assert row["mean_low"] <= row["mean"] <= row["mean_high"]
        if row["name"] != "vanilla":
            assert row["difference"] == pytest.approx((sum(scores) - sum(base)) / 4, abs=1e-12)


TWO = {"mean": {"weighted": 0.0, "plain": 0.4}, "windows": {"on": 0.0, "off": -0.9}}


def test_rows_of_effects(tmp_path):
    """Simple effects are differences of two cells; means over settings are means of these."""
    made = study(clusters=6, retentions=(0.5, 0.2), axes=TWO, unfinished=())
    found = rows(write(tmp_path / "two.sqlite", *made), "effects")
    score = {
        tuple(cell.factors.get(key) for key in ("mean", "windows", "retention")): sum(
            outcome.score for outcome in made[1][cell.id]
        )
        / 36
        for cell in made[0]
    }
    simple = [row for row in found if row["average"] == ""]
    assert len(simple) == 2 * 2 * 2  # two axes, each in two settings, at two retentions
    for row in simple:
        here = {**json.loads(row["setting"]), row["axis"]: row["label"]}
        there = {**here, row["axis"]: row["first"]}
        one, other = (score[x["mean"], x["windows"], row["retention"]] for x in (there, here))
        assert row["difference"] == pytest.approx(other - one, abs=1e-12)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert (row["pairs"], row["samples"], row["clusters"]) == (1, 36, 6)
    for row in found:
        own = [s for s in simple if (s["axis"], s["label"]) == (row["axis"], row["label"])]
        if row["average"] == "settings":
            own = [s for s in own if s["retention"] == row["retention"]]
        if row["average"]:
            assert row["pairs"] == len(own)
            mean = sum(s["difference"] for s in own) / len(own)
            assert row["difference"] == pytest.approx(mean, abs=1e-12)
    assert {row["average"] for row in found} == {"", "settings", "all"}


def test_files(path, tmp_path):
    target = tmp_path / "cells.csv"
    assert export(path, target) == len(rows(path))
    with target.open(newline="") as file:
        again = list(csv.DictReader(file))
    assert [float(row["mean"]) if row["mean"] else None for row in again] == [
        row["mean"] for row in rows(path)
    ]
    before = target.read_bytes()
    with pytest.raises(ConfigError, match=r"there already.*--overwrite"):
        export(path, target, "samples")
    assert target.read_bytes() == before
    export(path, target, "samples", overwrite=True)
    assert target.read_bytes() != before
    export(path, tmp_path / "samples.json", "samples")
    assert json.loads((tmp_path / "samples.json").read_text()) == rows(path, "samples")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        export(path, path, overwrite=True)  # a results file is never replaced
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="cannot write the file"):
        export(path, tmp_path / "none" / "x.csv")


def test_frames(path, monkeypatch):
    stand_in = types.SimpleNamespace(DataFrame=lambda data: ("frame", data))
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    assert frame(path) == ("frame", rows(path))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install pandas.*lightkv\.lab\.rows"):
        frame(path)


def other(folder, name="two", seed=0, change=lambda cell: cell, unfinished=()):
    cells, outcomes, meta = small(seed, unfinished=unfinished)
    changed = [change(cell) for cell in cells]
    outcomes = {
        new.id: outcomes[old.id]
        for old, new in zip(cells, changed, strict=True)
        if old.id in outcomes
    }
    return write(folder / f"{name}.sqlite", changed, outcomes, meta)


def test_studies_side_by_side(path, tmp_path):
    two = other(tmp_path, seed=1)
    found = rows([path, two])
    assert list(dict.fromkeys(row["study"] for row in found)) == ["one", "two"]
    result = compare([path, two])
    assert result.studies == ("one", "two")
    assert all(pair.same and pair.base.name == pair.cell.name for pair in result.pairs)
    with Store.open(path) as one, Store.open(two) as more:
        pair = result.pairs[1]
        before, now = one.outcomes(pair.base.id), more.outcomes(pair.cell.id)
    assert pair.difference == paired(before, now)
    assert pair.alike == len(now)  # of this study all answers are "3"
    assert all(pair.holm >= pair.difference.mcnemar_p for pair in result.pairs)
    # The first file's last cells failed, were skipped and are pending.
    assert len(result.alone["two"]) == 3
    assert "one" not in result.alone


def test_cells_of_other_specs_are_matched_by_what_they_compute_then_by_labels(path, tmp_path):
    def moved(cell):
        labels = {**cell.factors, "note": "x"} if cell.position == 0 else cell.factors
        spec = {**cell.spec, "dtype": "bfloat16"}
        if cell.position == 1:
            spec["pipeline"] = {**cell.spec["pipeline"], "positions": "keep"}
        return replace(cell, id=f"other{cell.position}", factors=labels, spec=spec)

    result = compare([path, other(tmp_path, change=moved)])
    assert len(result.pairs) == 2
    assert not any(pair.same for pair in result.pairs)
    assert result.pairs[0].base.name == result.pairs[0].cell.name == "vanilla"


def real(cell, **more):
    """The cell with a pipeline that can be built, another one for each position."""
    stage = {"after_layer": 1 + cell.position, "ratio": 0.5}
    pipeline = {"scorer": "size", "matcher": "top-k", "schedule": [stage], **more}
    return replace(cell, spec={**cell.spec, "pipeline": pipeline if cell.position else {}})


def test_how_a_pair_was_found_and_what_is_no_pair(tmp_path):
    def moved(cell):
        if cell.position == 0:
            return cell
        more = ({"positions": {"name": "keep"}}, {"positions": "renumber"}, {"aggregator": "drop"})
        found = real(cell, **more[min(cell.position, 3) - 1])
        task = {**cell.spec["task"], **({"seed": 7} if cell.position >= 3 else {})}
        label = {"note": "x"} if cell.position == 1 else {}
        return replace(
            found,
            id=f"other{cell.position}",
            name=f"other {cell.position}",
            factors={**cell.factors, **label},
            spec={**found.spec, "task": task},
        )

    base = other(tmp_path, "first", change=real)
    pairs = compare([base, other(tmp_path, change=moved)]).pairs
    assert [pair.found for pair in pairs[:4]] == ["spec", "computation", "labels", "computation"]
    assert [pair.base.position for pair in pairs] == [0, 1, 2, 3, 4]
    assert [pair.alike is None for pair in pairs] == [False, False, False, True, True]
    loose = pairs[3].difference
    assert (loose.mcnemar_p, loose.wins, loose.losses, pairs[3].holm) == (None,) * 4
    with Store.open(base) as store:
        assert loose.mean_base == mean_interval(store.outcomes(pairs[3].base.id))[0]
    assert {
        pair.found for pair in compare([base, other(tmp_path, "three")], to="vanilla").pairs
    } == {"named"}


def test_the_interval_of_two_independent_means(tmp_path):
    with Store.open(other(tmp_path)) as store:
        before, now = (store.outcomes(cell.id) for cell in store.cells()[1:3])
    loose = unpaired(before, now)
    assert loose.difference == pytest.approx(paired(before, now).difference)
    (a, a_low, a_high), (b, b_low, b_high) = mean_interval(before), mean_interval(now)
    assert loose.low == pytest.approx(b - a - ((b - b_low) ** 2 + (a_high - a) ** 2) ** 0.5)
    assert loose.high == pytest.approx(b - a + ((b_high - b) ** 2 + (a - a_low) ** 2) ** 0.5)
    with pytest.raises(ConfigError, match="no outcomes"):
        unpaired(before, [])


def test_all_cells_to_one(path, tmp_path):
    result = compare([path, other(tmp_path)], to="vanilla")
    assert {pair.base.name for pair in result.pairs} == {"vanilla"}
    assert [pair.study for pair in result.pairs] == ["one"] + ["two"] * 5
    with pytest.raises(ConfigError, match="Did you mean 'vanilla'"):
        compare([path, other(tmp_path, "three")], to="vanila")


def test_what_cannot_be_compared_says_why(path, tmp_path):
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([path])
    foreign = other(tmp_path, change=lambda c: replace(c, spec={**c.spec, "model": "another"}))
    with pytest.raises(StoreError, match='model was "demo" and is "another"'):
        compare([path, foreign])
    folder = tmp_path / "copy"
    folder.mkdir()
    with pytest.raises(StoreError, match="same name"):
        compare([path, other(folder, "one")])
    with Store.create(foreign, small()[2]["grid"]) as store:
        store.update_meta(versions={"torch": "9"})
    same = other(tmp_path, "four")
    with Store.create(same, small()[2]["grid"]) as store:
        store.update_meta(versions={"torch": "9"})
    assert "torch: 2.13.0 in one, 9 in four" in compare([path, same]).differs
