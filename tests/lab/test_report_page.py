"""The figures behind the report, and the page as text."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scores import by_kind
from synthetic_study import AXES, KINDS, RETENTIONS, UNFINISHED, study, write

from lightkv import lab
from lightkv.core.errors import ConfigError
from lightkv.lab import stats
from lightkv.lab.errors import StoreError
from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome
from lightkv.lab.reporting import build_study
from lightkv.lab.reporting.effects import by_weight, main_effects
from lightkv.lab.reporting.formatting import figure_text
from lightkv.lab.reporting.front import front
from lightkv.lab.reporting.page import page

EVIL = "</script><script>alert(1)</script><!-- <b>%{x}</b> & \"'"


@pytest.fixture(scope="module")
def made():
    return study()


@pytest.fixture(scope="module")
def built(made):
    cells, outcomes, meta = made
    return build_study(cells, outcomes.__getitem__, meta)


@pytest.fixture(scope="module")
def small():
    """Few cells: two axes at two retentions."""
    return study(
        clusters=8, retentions=(0.5, 0.2), axes={"guidance": AXES["guidance"]}, unfinished=()
    )


def built_of(cells, outcomes, meta, **changes):
    return build_study(cells, outcomes.__getitem__, {**meta, **changes}, resamples=200)


def text_of(*parts):
    return page(built_of(*parts), "results.sqlite")


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


# -- figures --------------------------------------------------------------------------------------


def test_every_figure_agrees_with_the_statistics(made, built):
    cells, outcomes, _ = made
    base = outcomes[cells[0].id]
    for number in (0, 1, 40):
        row, own = built.rows[number], outcomes[cells[number].id]
        score = (row.score.value, row.score.low, row.score.high)
        assert score == pytest.approx(stats.mean_interval(own))
        if number:
            expected = stats.paired(base, own)
            assert row.base == "vanilla"
            assert row.p == expected.mcnemar_p
            found = (row.change.value, row.change.low, row.change.high)
            assert found == pytest.approx((expected.difference, expected.low, expected.high))
        for kind, scores in by_kind(own).items():
            mean = np.mean([outcome.score for outcome in scores])
            assert row.kinds[kind].score.value == pytest.approx(mean)
            assert row.kinds[kind].samples == len(scores)


def test_a_group_knows_its_samples(built):
    [group] = built.groups
    assert group.label == "demo · scenes"
    assert (group.samples, group.clusters, group.share) == (360, 60, True)
    assert group.kinds == sorted(KINDS)
    assert group.retentions == [str(retention) for retention in RETENTIONS]
    assert list(built.axes) == list(AXES)
    assert group.vanilla is built.rows[0]


def test_main_effects_are_means_of_paired_differences(built):
    [group] = built.groups
    effects = main_effects(built, group)
    for effect in effects:
        chosen = [r for r in group.rows if effect.retention in (None, r.retention) and not r.plain]
        rest = {
            tuple(v for k, v in r.cell.factors.items() if k != effect.axis): r.score.value
            for r in chosen
            if r.cell.factors[effect.axis] == effect.first
        }
        gaps = [
            r.score.value - rest[key]
            for r in chosen
            if r.cell.factors[effect.axis] == effect.label
            and (key := tuple(v for k, v in r.cell.factors.items() if k != effect.axis)) in rest
        ]
        assert effect.pairs == len(gaps)
        assert effect.change.value == pytest.approx(np.mean(gaps))
        assert effect.change.low <= effect.change.value <= effect.change.high
    labels = sum(len(labels) - 1 for labels in AXES.values())
    assert len(effects) == labels * (1 + len(RETENTIONS))
    strongest = by_weight(effects)[0]
    assert (strongest.axis, strongest.label) == ("matcher", "random")
    assert strongest.change.high < 0


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.5, 80), (0.5, 80), (0.508, 80)], {0, 1, 2}),  # ties share it
        ([(0.5, 80), (0.52, 80)], {0}),
        ([(0.504, 80), (0.506, 81)], {1}),  # on both sides of a rounded hundredth
        ([(0.5, 80), (0.508, 81), (0.516, 82)], {2}),  # 1 beats 0, and 2 beats 1
        ([(0.5, 80), (0.52, 81)], {0, 1}),
        ([(None, 99), (0.5, 80)], {1}),
        ([], set()),
    ],
)
def test_the_front_is_what_nothing_beats(points, expected):
    assert front(points) == expected


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_best_are_on_the_front_in_any_order(points):
    found = front(points)
    best = max(quality for _, quality in points)
    cheapest = min(cost for cost, quality in points if quality == best)
    assert points.index((cheapest, best)) in found
    turned = front(points[::-1])
    assert {len(points) - 1 - number for number in turned} == found


def test_cells_with_other_samples_are_other_groups(small):
    cells, outcomes, meta = small
    last = next(cell for cell in reversed(cells) if cell.status == "done")
    fewer = {**outcomes, last.id: outcomes[last.id][:-6]}
    found = built_of(cells, fewer, meta)
    assert [len(group.rows) for group in found.groups] == [len(outcomes) - 1, 1]
    assert "42 samples" in found.groups[1].label
    assert found.rows[last.position].change is None
    assert 'id="group"' in page(found)


def test_log_probabilities_are_no_percentages(small):
    cells, outcomes, meta = small
    logs = {k: [replace(o, score=o.score - 2.5) for o in each] for k, each in outcomes.items()}
    found = built_of(cells, logs, meta)
    assert not found.groups[0].share
    assert found.rows[1].p is None
    text = page(found)
    assert "score (log-likelihood)" in text
    assert "%</li>" not in text
    assert figure_text(-0.0004, share=False) == "0.000"
    assert figure_text(-0.021, share=True, signed=True) == "−2.1"


def test_seeds_share_a_line(small):
    cells, outcomes, meta = small
    first, other = cells[1:3]
    factors = {**first.factors, "seed": "1"}
    twin = replace(first, id="twin", position=99, name="twin", factors=factors)
    found = built_of([*cells, twin], {**outcomes, "twin": outcomes[other.id]}, meta)
    traces = data_of(page(found))["groups"][0]["quality"]["each setting"]["retention"]["data"]
    lines = [t for t in traces if t.get("showlegend") is not False and t["name"] != "Pareto front"]
    assert [(line["name"], len(line["x"])) for line in lines] == [("prompt", 2), ("uniform", 2)]
    mean = np.mean([found.rows[number].score.value for number in (1, 2)])
    assert lines[0]["y"][-1] == pytest.approx(100 * mean, abs=1e-3)


# -- the page -------------------------------------------------------------------------------------


def test_page_holds_everything_and_loads_nothing(made, built):
    cells, outcomes, _ = made
    text = page(built, "results.sqlite")
    assert text.count("<script") == 3
    assert not re.search(r"<(link|img|script|iframe)[^>]*(href|src)=[\"'](?!data:)", text)
    assert "default-src 'none'" in html.unescape(text)
    data = data_of(text)["groups"][0]
    assert list(data["quality"]) == ["each setting", *(f"by {axis}" for axis in AXES)]
    assert data["view"] == "by matcher"
    assert len(data["kinds"]) == len(RETENTIONS)
    for words in ("parts of lightkv", "360 in 60 clusters", "70 of 73 done", "torch 2.13.0"):
        assert words in text
    for status, reason in UNFINISHED:
        assert f'<tr class="cell {status}"' in text
        assert reason in text
    assert text.count('<tr class="cell ') == len(cells)
    assert "<b>matcher</b> matters most: random instead of feature-divergence" in text
    assert len(text) < 7e6
    assert not any(o.sample in text for o in outcomes[cells[0].id][:3])  # figures, not samples


def test_specs_read_back(small):
    cells, *_ = small
    text = text_of(*small)
    shown = re.findall(r'<pre class="spec" tabindex="0">(.*?)</pre>', text, re.DOTALL)
    assert [yaml.safe_load(html.unescape(each)) for each in shown] == [c.spec for c in cells]


def test_odd_texts_do_not_break_the_page():
    axes = {EVIL: {"a" + EVIL: 0.0, "b" + EVIL: -0.5}}
    cells, outcomes, meta = study(
        6, (0.5, 0.2), axes, names=lambda text: text + EVIL, unfinished=()
    )
    cells = [replace(cell, spec={**cell.spec, "note": EVIL}) for cell in cells]
    meta = {**meta, "grid": {"name": EVIL}, "versions": {EVIL: EVIL}}
    text = text_of(cells, outcomes, meta)
    assert text.count("</script>") == 3
    assert "<script>alert" not in text
    assert "<!-- <b>" not in text.split("<script", 1)[0]
    drawn = data_of(text)["groups"][0]
    parts = [
        drawn["effects"],
        *drawn["quality"].values(),
        *drawn["kinds"].values(),
    ]
    for figures in map(json.dumps, parts):
        assert "<script>" not in figures  # plotly reads HTML in labels: they are escaped once more
        assert "&lt;script&gt;" in figures


def test_the_head_names_model_and_task_whatever_they_are_called(small):
    cells, outcomes, meta = small
    factors = {"model": "my · model", "task": "scenes · 2"}
    cells = [replace(cell, factors={**cell.factors, **factors}) for cell in cells]
    text = text_of(cells, outcomes, meta)
    assert "<dt>model</dt><dd>my · model</dd>" in text
    assert "<dt>task</dt><dd>scenes · 2</dd>" in text


def test_filters_name_labels_as_cells_do():
    """A browser cuts white space from the text of an option, but not from its value."""
    labels = ["two  spaces", " before", 'a "quoted" one']
    axes = {"axis": dict.fromkeys(labels, 0.0)}
    text = html.unescape(text_of(*study(6, (0.5,), axes, unfinished=())))
    for label in labels:
        assert f'<option value="{label}">' in text
        assert f'<td data-sort="{label}"' in text


@pytest.mark.parametrize("changes", [{"flops": None}, {"tokens": ()}, {"retention": None}])
def test_cells_that_lack_a_figure(small, changes):
    cells, outcomes, meta = small
    text = text_of([replace(cell, **changes) for cell in cells], outcomes, meta)
    data = data_of(text)["groups"][0]
    assert (data["tokens"] is None) == ("tokens" in changes)


def test_a_grid_of_one_cell_without_kinds_or_baseline():
    cell = Cell("x", 0, "only", {"cell": "only"}, {"model": "m", "pipeline": {"name": "a"}}, "done")
    outcomes = [Outcome(str(n), str(n), "", "q", "a", 1.0) for n in range(5)]
    found = build_study([cell], lambda _: outcomes, {}, resamples=100)
    data = data_of(page(found))["groups"][0]
    assert data["kinds"] is None
    assert data["effects"] is None
    assert found.rows[0].change is None
    assert found.rows[0].score.low < found.rows[0].score.high == 1.0


def test_named_baseline(small):
    cells, outcomes, meta = small
    found = built_of(cells, outcomes, meta, baselines={}, baseline=cells[1].name)
    assert found.rows[1].base is None
    assert {row.base for row in found.rows if row.score} == {None, cells[1].name}
    text = page(found)
    assert re.search(rf"points against {cells[1].name}( \(no difference.*?\))?; ", text) or (
        "and is the baseline" in text
    )


def test_a_baseline_for_each_retention(small):
    cells, outcomes, meta = small
    against = {cell.name: cell.name.replace("uniform", "prompt") for cell in cells[1:]}
    against = {name: base for name, base in against.items() if name != base}
    grid = {**meta["grid"], "baseline": {"guidance": "prompt"}}
    found = built_of(cells, outcomes, meta, baselines=against, grid=grid)
    assert [row.base for row in found.rows[1:]] == [None, cells[1].name, None, cells[3].name]
    text = page(found)
    assert "<dd>guidance prompt</dd>" in text
    assert "and is the baseline" in text or "against the baseline" in text


# -- files ----------------------------------------------------------------------------------------


def test_report_reads_the_store(small, tmp_path):
    path = write(tmp_path / "results.sqlite", *small)
    before = path.read_bytes()
    found = lab.report(path, tmp_path / "report.html")
    assert "results.sqlite" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert path.read_bytes() == before
    with Store.open(path) as store:
        again = lab.report(store, tmp_path / "again.html")
        assert len(store.cells()) == len(found.rows)
    assert [row.score for row in again.rows] == [row.score for row in found.rows]


def test_nothing_finished(small):
    cells, _, meta = small
    with pytest.raises(StoreError, match="no cell has finished"):
        build_study([replace(cell, status="pending") for cell in cells], lambda _: [], meta)
    with pytest.raises(StoreError, match="no outcomes"):
        build_study(cells[:1], lambda _: [], meta)


def test_the_results_are_never_overwritten(small, tmp_path):
    path = write(tmp_path / "results.sqlite", *small)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="would overwrite the results"):
        lab.report(path, tmp_path / "." / "results.sqlite")
    link = tmp_path / "link.html"
    link.hardlink_to(path)
    with pytest.raises(ConfigError, match="would overwrite the results"):
        lab.report(path, link)
    assert path.read_bytes() == before


def test_pages_are_named_as_pages_and_cost_no_other_results(small, tmp_path):
    path = write(tmp_path / "results.sqlite", *small)
    other = write(tmp_path / "other.sqlite", *small)
    named = other.rename(tmp_path / "other.html")
    before = named.read_bytes()
    with pytest.raises(ConfigError, match="results of another grid"):
        lab.report(path, named)
    assert named.read_bytes() == before
    for out in ("-", tmp_path / "page", tmp_path / "page.png"):
        with pytest.raises(ConfigError, match="not the name of a page"):
            lab.report(path, out)
    page_file = tmp_path / "page.HTM"
    page_file.write_text("an older page")
    lab.report(path, page_file)
    assert page_file.stat().st_size > 1e6


@pytest.mark.parametrize("missing", ["plotly", "scipy"])
def test_missing_extra_is_named(small, tmp_path, monkeypatch, missing):
    import importlib.util

    path = write(tmp_path / "results.sqlite", *small)
    found = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == missing else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(ConfigError, match=r"lightkv\[report\]"):
        lab.report(path, tmp_path / "report.html")
