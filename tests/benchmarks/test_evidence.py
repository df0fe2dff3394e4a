"""The study's runner, what is kept of results, and the page that is made of it."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import evidence
import study as runner
from evidence_page import effects, guidance, presets, searches, tokens
from evidence_page.figures import Cells, verdict
from kept import Kept, keep, read
from synthetic_study import study, write

from lightkv.lab import Store, rows
from lightkv.lab.stats import Estimate

ROOT = Path(__file__).parents[2]
FACTORS = ("cell", "method", "guidance", "task", "retention")


def cell(score=None, loss=None, *, status="done", reason="", repeats=None, **factors):
    """A row of cells as it is kept; the loss has an interval of ± 1 point."""
    name = " ".join(f"{key}={label}" for key, label in factors.items())
    low, high = (None, None) if loss is None else (loss - 0.01, loss + 0.01)
    share = float(factors.get("retention", 1.0))
    labels = {f"factor_{key}": factors.get(key) for key in FACTORS}
    ran = {"retention": share, "flops": 0.5 + share / 4, "kv_bytes": share, "seconds": 36.0}
    return {
        "name": name, **labels, "status": status, "reason": reason, "repeats": repeats,
        "samples": 1150, "clusters": 200, "mean": score, "mean_low": score, "mean_high": score,
        "vanilla_difference": loss, "vanilla_low": low, "vanilla_high": high,
        "difference": loss, "difference_low": low, "difference_high": high,
        **(ran if status == "done" else dict.fromkeys(ran)),
    }  # fmt: skip


def kind(of, name, samples, gain, side=0.02):
    ends = {"difference_low": gain - side, "difference_high": gain + side}
    return {"name": of, "kind": name, "samples": samples, "mean": 0.9, "difference": gain, **ends}


def effect(task, axis, label, change, retention="0.35", average="", **setting):
    ends = {"difference_low": change - 0.01, "difference_high": change + 0.01}
    return {
        "model": "demo" if task == "scenes" else "demo-video", "task": task,
        "axis": axis, "label": label, "first": "first", "average": average,
        "retention": retention, "setting": json.dumps(setting), "difference": change, **ends,
    }  # fmt: skip


def lines(markdown):
    """Rows of tables as lists of their fields, heads and rules left out."""
    found = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[field.strip() for field in line.strip("|").split("|")] for line in found[1:]]


# -- what is kept ---------------------------------------------------------------------------------


def test_what_is_kept_is_what_the_lab_exports(tmp_path):
    axes = {"mean": {"weighted": 0.0, "plain": 0.3, "half": 0.1, "some": 0.5, "none": 0.9}}
    made = study(clusters=4, retentions=(0.5,), axes=axes)
    results = write(tmp_path / "one.sqlite", *made)
    keep(results, tmp_path / "new" / "one.json")
    kept = read(tmp_path / "new" / "one.json")
    assert kept.head["grid"]["name"] == "parts of lightkv"
    assert kept.head["tasks"] == {"scenes": {"name": "scenes", "scenes": 4}}
    for what in ("cells", "kinds", "effects"):
        there, own = rows(results, what), getattr(kept, what)
        assert len(own) == len(there) > 0
        for mine, full in zip(own, there, strict=True):
            for key, value in mine.items():
                exact = (
                    pytest.approx(full[key], rel=1e-5) if isinstance(value, float) else full[key]
                )
                assert value == exact, key
    statuses = [each["status"] for each in kept.cells]
    assert statuses == ["done", "done", "done", "failed", "skipped", "pending"]
    assert kept.cells[3]["reason"].startswith("NumericError")
    assert {"mean_low", "vanilla_high", "flops", "kv_bytes", "samples", "seconds"} <= set(
        kept.cells[0]
    )
    assert "pipeline" not in kept.cells[0]
    text = (tmp_path / "new" / "one.json").read_text()
    assert (
        sum(line.startswith('["vanilla"') for line in text.splitlines()) == 1 + 6
    )  # a row is a line


def test_a_grid_that_has_only_begun_is_kept(tmp_path):
    made = study(clusters=4, retentions=(0.5,), unfinished=[("pending", "")] * 25)
    assert keep(write(tmp_path / "one.sqlite", *made), tmp_path / "one.json")
    kept = read(tmp_path / "one.json")
    assert (kept.count("pending"), kept.kinds, kept.effects) == (25, [], [])
    with Store.create(tmp_path / "two.sqlite", {"name": "planned"}):
        pass
    assert not keep(tmp_path / "two.sqlite", tmp_path / "two.json")
    assert not (tmp_path / "two.json").exists()


# -- blocks ---------------------------------------------------------------------------------------


def of_presets():
    names = {"lightkv": (0, -1, -30), "fastv": (-2, -5, -20), "tome": (-1, -3, None)}
    cells = [cell(0.963, cell="vanilla", task="scenes")]
    for name, losses in names.items():
        for retention, loss in zip(("0.55", "0.35", "0.2", "0.1"), (*losses, None), strict=True):
            given = {"method": name, "task": "scenes", "retention": retention}
            more = {"status": "skipped", "reason": f"{retention} is out of reach"}
            if loss is not None:
                cells.append(cell(0.963 + loss / 100, loss / 100, **given))
            else:
                cells.append(cell(**given, **more))
    cells[-1] |= {"status": "pending", "reason": ""}
    next(c for c in cells if c["factor_method"] == "fastv" and c["vanilla_difference"] == -0.2)[
        "retention"
    ] = 0.25
    return Kept({"tasks": {"scenes": {"name": "scenes"}}}, cells)


def test_presets_are_sorted_by_their_loss_and_say_what_they_cannot_reach():
    text = presets.presets(of_presets())
    assert "96.3 [96.3, 96.3] of 1,150 questions about 200 scenes" in text
    assert [row[0] for row in lines(text)] == ["`fastv`", "`lightkv`", "`tome`"]
    first, _, last = lines(text)
    assert first[1:5] == [
        "−2.0 [−3.0, −1.0]",
        "−5.0 [−6.0, −4.0]",
        "−20.0 [−21.0, −19.0] at 0.25",
        "– (1)",
    ]
    assert first[5:] == ["0.55", "0.20"]
    assert last[3:] == ["– (2)", "not yet", "–", "–"]
    assert text.endswith("1. 0.1 is out of reach\n2. 0.2 is out of reach")


UP, DOWN, NONE = Estimate(2, 1, 3), Estimate(-2, -3, -1), Estimate(1, -1, 3)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (UP, UP, "yes"), (DOWN, DOWN, "yes"), (UP, DOWN, "opposite"), (DOWN, UP, "opposite"),
        (UP, NONE, "undecided"), (NONE, NONE, "undecided"), (UP, None, "–"), (None, UP, "–"),
    ],
)  # fmt: skip
def test_whether_an_effect_carries_over(first, second, said):
    assert verdict(first, second) == said


def test_effects_stand_side_by_side():
    first = [
        effect("scenes", "changed", "keys", 0.05, changed="x"),
        effect("scenes", "changed", "random", -0.3, changed="x"),
        effect("scenes", "other", "keys", 0.5),
        effect("scenes", "changed", "keys", 0.5, average="settings"),
    ]
    second = [
        effect("pictures", "changed", "keys", -0.04, changed="x"),
        effect("pictures", "changed", "random", -0.2, changed="x"),
        effect("clips", "changed", "keys", 0.001, changed="x"),
    ]
    text = effects.effects([Kept({}, effects=first), Kept({}, effects=second)], "changed")
    assert text.splitlines()[0] == (
        "| changed | retention | scenes | pictures | clips | carries over? |"
    )
    assert lines(text) == [
        ["keys", "0.35", "+5.0 [+4.0, +6.0]", "−4.0 [−5.0, −3.0]", "+0.1 [−0.9, +1.1]",
         "pictures: opposite, clips: undecided"],
        ["random", "0.35", "−30.0 [−31.0, −29.0]", "−20.0 [−21.0, −19.0]", "–",
         "pictures: yes, clips: –"],
    ]  # fmt: skip
    assert text.endswith("Of 3 comparisons: 1 yes, 1 opposite, 1 undecided.")
    alone = effects.effects([Kept({}, effects=second)], "changed")
    assert [row[-1] for row in lines(alone)] == ["–", "–"]  # the first model has not been asked
    rows_of = lines(effects.by_retention(Kept({}, effects=second), "changed", "clips"))
    assert rows_of == [["x", "keys", "+0.1 [−0.9, +1.1]"]]


def test_a_repeat_has_the_figures_of_its_twin():
    twin = cell(0.9, -0.05, method="a", task="scenes", retention="0.2")
    again = cell(method="b", task="scenes", retention="0.2", status="skipped", repeats=twin["name"])
    cells = Cells(Kept({}, [twin, again]))
    assert cells.one(method="b")["vanilla_difference"] == -0.05
    assert (cells.one(method="b")["name"], cells.one(method="b")["twin"]) == (
        again["name"],
        twin["name"],
    )
    text = effects.levels([Kept({}, [twin, again])], ("method",), ("0.2",))
    assert [row[:2] for row in lines(text)] == [["0.2", "a"], ["0.2", "b"]]
    assert {row[2] for row in lines(text)} == {"−5.0 [−6.0, −4.0]"}


def of_guidance(gains, side=0.02):
    labels = {"method": "lightkv", "task": "clips", "retention": "0.2"}
    cells = [cell(0.8, 0.0, guidance="none", **labels), cell(0.9, 0.1, guidance="prompt", **labels)]
    kinds = [
        kind(cells[1]["name"], f"{2 * place:02} frames before the end", 100 - place, gain, side)
        for place, gain in enumerate(gains)
    ]
    return Kept({}, cells, kinds[::-1])


def test_the_trend_of_guidance_is_the_weighted_least_squares_line():
    values = [0.11, 0.10, 0.07, 0.08, 0.02]
    sides = [0.01, 0.02, 0.04, 0.03, 0.05]
    given = [
        (2 * place, 10, Estimate(value, value - side, value + side))
        for place, (value, side) in enumerate(zip(values, sides, strict=True))
    ]
    found = guidance.trend(given)
    errors = np.array(sides) / guidance.NORMAL
    line, spread = np.polyfit([each[0] for each in given], values, 1, w=1 / errors, cov="unscaled")
    assert found.value == pytest.approx(8 * line[0], abs=1e-12)
    half = 8 * guidance.NORMAL * math.sqrt(spread[0, 0])
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert guidance.trend(given[:2]) is None
    assert guidance.trend([*given[:3], (9, 1, Estimate(0, -math.inf, math.inf))]) is None


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([0.2, 0.15, 0.1, 0.02], "yes"),
        ([0.02, 0.1, 0.15, 0.2], "no, it grows"),
        ([0.1, 0.11, 0.09, 0.1], "undecided"),
    ],
)
def test_whether_guidance_fades(gains, said):
    [row] = lines(guidance.guidance([of_guidance(gains)]))
    assert row[:4] == ["lightkv", "0.2", "prompt", "+10.0 [+9.0, +11.0]"]
    assert row[4].startswith(f"+{100 * gains[0]:.1f} [")
    assert row[5].startswith(f"+{100 * gains[-1]:.1f} [")
    assert row[7] == said
    assert guidance.fades(Estimate(0.1, -0.1, 0.3), Estimate(0, 0, 0)) == "no gain shown"


def of_tokens(losses):
    """Task → losses in points at 0.8, 0.5, 0.2."""
    cells = []
    for task, some in losses.items():
        cells.append(cell(0.95, cell="vanilla", task=task))
        for retention, loss in zip(("0.8", "0.5", "0.2"), some, strict=True):
            labels = {"method": "fastv", "task": task, "retention": retention}
            cells.append(cell(0.9, loss / 100, **labels))
    return Kept({"tasks": {task: {"name": "pictures"} for task in losses}}, cells[::-1])


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ((0, -0.5, -5), "0.5 (0.5 to 0.8)"),
        ((0, -1.5, -0.5), "0.8 (0.2 to 0.8)"),  # what is lost at 0.5 counts at 0.2 too
        ((-1.5, 0, 0), "> 0.8 (0.2 to > 0.8)"),
        ((-9, -9, -9), "> 0.8 (> 0.8 to > 0.8)"),
        ((1, 1, 1), "0.2 (0.2 to 0.2)"),
    ],
)
def test_the_retention_that_loses_at_most_a_point(losses, text):
    [row] = lines(tokens.tokens([of_tokens({"064": losses})]))
    assert row == ["pictures", "64", "95.0 [95.0, 95.0]", text]


def of_search(tested=True):
    def change(value):
        return {"value": value, "low": value - 0.01, "high": value + 0.01, "clear": False}

    designs = [
        {"name": name, "drawn": drawn, "wanted": "0.2", "retention": 0.2, "flops": flops,
         "on_front": drawn, "choices": {"scorer": "uniform"} if drawn else {},
         "change": change(loss), "held_out": change(loss - 0.02) if tested else None}
        for name, drawn, flops, loss in (("trial 3", True, 0.3, -0.04), ("fastv", False, 0.28, -0.09))
    ]  # fmt: skip
    duel = {"retention": "0.2", "drawn": "trial 3", "hand_made": "fastv", "change": change(0.05)}
    level = {"label": "uniform", "trials": 7, "gain": 0.021}
    found = {
        "score": 0.964, "samples": 1150, "clusters": 200, "designs": designs,
        "trials": {"drawn": 20, "ended_early": 9, "finished": 11},
        "best": [{"retention": "0.2", "drawn": "trial 3", "hand_made": "fastv"}],
        "effects": [{"path": "scorer", "share": 0.31, "p": 0.004, "trials": 20, "levels": [level]}],
        "duels": [duel] if tested else [],
    }  # fmt: skip
    task = {"name": "scenes"}
    head = {"study": {"name": "default scenes", "task": task}, "created": "2026-11-28T10:00:00"}
    return Kept({**head, "versions": {}}, found=found)


def test_searches_say_whether_they_beat_what_was_made_by_hand():
    text = searches.search(of_search())
    assert "20 drawn, 9 ended early, 11 finished. Uncompressed: 96.4 of 1,150 questions" in text
    best, front, second, mattered = lines(text)[0], *(lines(text)[k] for k in (2, 3, 5))
    assert best == ["0.2", "trial 3", "−6.0 [−7.0, −5.0]", "fastv", "−11.0 [−12.0, −10.0]",
                    "+5.0 [+4.0, +6.0]", "yes"]  # fmt: skip
    assert front == ["fastv", "0.200", "0.280", "−9.0 [−10.0, −8.0]", "−11.0 [−12.0, −10.0]", "–"]
    assert second[0] == "trial 3 *"
    assert mattered == ["`scorer`", "0.31", "< 0.01", "uniform (+2.1 points, 7 trials)"]
    untested = searches.search(of_search(tested=False))
    assert "have not been asked yet" in untested
    assert lines(untested)[0][2::2] == ["–", "–", "–"]


# -- the page -------------------------------------------------------------------------------------


def page_in(tmp_path):
    page = tmp_path / "evidence.md"
    marks = [f"<!-- {evidence.mark_of(block)} -->" for block in evidence.BLOCKS]
    page.write_text("".join(f"before\n{mark}\nold\n{mark}\n" for mark in marks) + "after\n")
    return page


def test_the_page_of_the_repository_is_what_its_results_say(tmp_path):
    page = tmp_path / "evidence.md"
    text = (ROOT / "docs" / "evidence.md").read_text()
    page.write_text(text)
    shown = dict(re.findall(r"(!\[.*\]\(images/(evidence-\w+)\.svg\))", text))
    shown = {name: line for line, name in shown.items()}
    evidence.write(runner.KEPT, page, lambda name, what: shown[name])
    state = f"<!-- {evidence.mark_of('state')} -->"
    before, after = (each.read_text().split(state) for each in (page, ROOT / "docs/evidence.md"))
    assert (before[0], before[2]) == (after[0], after[2])  # run benchmarks/evidence.py
    assert [row.split("`")[1] for row in after[1].splitlines() if "`](" in row] == list(
        evidence.NAMES
    )
    assert "<!-- READING begin" in text
    for name in shown:
        assert (ROOT / "docs" / "images" / f"{name}.svg").exists()


def test_without_results_every_block_names_its_grids(tmp_path):
    page = page_in(tmp_path)
    evidence.write(tmp_path / "none", page, lambda name, what: "")
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n<!-- EVIDENCE STATE -->\n| grid or search |")
    assert text.count("| not run yet |") == len(evidence.NAMES)
    waiting = " ".join(re.findall(r"Not run yet: (.*)\.", text))
    assert set(re.findall(r"`(\w+)`", waiting)) == set(evidence.NAMES)
    again = page.read_text()
    evidence.write(tmp_path / "none", page, lambda name, what: "")
    assert page.read_text() == again
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="EVIDENCE STATE"):
        evidence.write(tmp_path / "none", page, lambda name, what: "")


def test_curves_are_drawn_and_shown(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "images").mkdir()
    draw = evidence.drawer(tmp_path / "images")
    kept = of_presets()
    names = [row["name"] for row in kept.cells if row["status"] == "done"]
    kept.kinds.extend(kind(name, "count", 10, 0.0) for name in names)
    sizes = [of_tokens({"064": (0, -2, -5), "144": (0, 0, -9)})]
    for what, given in (
        ("quality", kept),
        ("fading", [of_guidance([0.2, 0.1, 0.1])]),
        ("reach", sizes),
    ):
        shown = draw(what, (what, given))
        assert shown.endswith(f"](images/{what}.svg)")
        first = (tmp_path / "images" / f"{what}.svg").read_bytes()
        assert b"<svg" in first
        draw(what, (what, given))
        assert (tmp_path / "images" / f"{what}.svg").read_bytes() == first


# -- the runner -----------------------------------------------------------------------------------


def test_the_order_names_files_and_others_are_refused(tmp_path, capsys):
    assert all((runner.HERE / f"{each}.yaml").exists() for each in runner.ORDER)
    assert runner.pick(["schedules", "parts_video"]) == ["grids/schedules", "grids/parts_video"]
    with pytest.raises(SystemExit, match="no 'parts'"):
        runner.pick(["parts"])
    with pytest.raises(SystemExit):
        runner.main(["--out", str(tmp_path), "--set", "task.scenes=2"])
    assert "give --kept another folder" in capsys.readouterr().err
    runner.main(["--out", str(tmp_path), "--only", "schedules", "--list", "--json"])
    [work] = json.loads(capsys.readouterr().out)
    assert (work["cells"], work["questions"], work["done"]) == (49, 49 * 1151, None)
    assert work["hours"] == pytest.approx(49 * 1151 * 144 * 0.24e-3 / 3600)


def test_a_small_grid_from_the_runner_to_the_page(tmp_path, monkeypatch, capsys):
    """It is stopped at once and gone on with; the page says what the answers say."""
    monkeypatch.setattr("lightkv.lab.grids.measuring.PROMPTS", 1)
    only = ["--only", "presets_scenes", "--out", tmp_path / "out", "--kept", tmp_path / "kept"]
    only += ["--set", "task.scenes=2", "retention=[0.35]", "axes.method={fastv: {base: fastv}}"]
    only += ["task.kinds=[count, exists]"]
    runner.main([*map(str, only), "--minutes", "0.001"])
    assert "the time is up" in capsys.readouterr().out
    assert read(tmp_path / "kept" / "presets_scenes.json").count("done") == 0
    runner.main([*map(str, only), "--minutes", "5"])
    with Store.open(tmp_path / "out" / "presets_scenes.sqlite") as store:
        scores = {
            c.factors.get("method", "vanilla"): [o.score for o in store.outcomes(c.id)]
            for c in store.cells()
        }
    before, after = (sum(scores[name]) / 4 for name in ("vanilla", "fastv"))
    page = page_in(tmp_path)
    found = evidence.write(tmp_path / "kept", page, lambda name, what: "")
    assert list(found.kept) == ["presets_scenes"]
    text = page.read_text()
    assert "| 2 ran of 2 | done; the grid or a preset has changed since |" in text
    assert f"Uncompressed: {100 * before:.1f} [" in text
    shown = f"{100 * (after - before):+.1f}".replace("-", "−").replace("+0.0", "0.0")
    assert re.search(rf"\| `fastv` \| – \| {re.escape(shown)} \[", text)
    assert "`presets_pictures`, `presets_pairs`, `presets_clips`" in text
