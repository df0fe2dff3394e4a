"""`lightkv demo` and the comparison behind it, on an untrained model and few scenes."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from lightkv.checkpoints import bundled as bundled_checkpoint
from lightkv.cli.demo import _table
from lightkv.demo import compare as comparing
from lightkv.demo.compare import Accuracy, Row, compare, wilson
from lightkv.demo.model import load
from lightkv.demo.scenes import KINDS, held_out_scenes

FEW = ("--samples", 2, "--batch-size", 2)


def test_table_has_all_strategies(ok, bundled):
    text = ok("demo", "--samples", 1)
    words = " ".join(text.split())
    for source in ("vanilla", *comparing.STRATEGIES):
        assert (source if isinstance(source, str) else source["name"]) in words
    assert "lightkv ρ=0.4 removes 0.4 of the tokens at a stage where lightkv removes half" in words
    assert "Measured just now" in words
    assert "about 1 scene that" in words


def test_table_turns_where_the_terminal_is_narrow():
    accuracy = {kind: Accuracy.of([1.0, 0.0]) for kind in KINDS}
    names = (
        "vanilla",
        "lightkv",
        "lightkv ρ=0.4",
        "lightkv-plus",
        "lightkv-lean",
        "fastv",
        "random",
    )
    rows = [Row(name, None, [], dict(accuracy), 0.5, 1e6, 1e9, 1.5, 0.5, 4) for name in names]
    for width in (80, 120):
        out = Console(width=width, file=io.StringIO())
        out.print(_table(rows, width))
        text = out.file.getvalue()
        assert "…" not in text
        assert "977 KiB" in text
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_json_relates_each_figure_to_vanilla(ok_json, bundled):
    data = ok_json("demo", *FEW, "--strategies", "tome,random", "--json")
    vanilla, tome, random = data["rows"]
    assert [row["strategy"] for row in data["rows"]] == ["vanilla", "tome", "random"]
    assert vanilla["retention"] == 1.0
    assert vanilla["ttft_ratio"] == vanilla["prefill_flops_ratio"] == 1.0
    for row in (tome, random):
        assert row["retention"] == pytest.approx(0.55, abs=0.006)
        assert row["vision_kv_ratio"] == pytest.approx(row["retention"])
        assert 0.3 < row["prefill_flops_ratio"] < 1.0
        assert row["ttft_seconds"] > 0
        for accuracy in row["accuracy"].values():
            assert accuracy["low"] <= accuracy["mean"] <= accuracy["high"]
    assert sum(a["questions"] for a in tome["accuracy"].values()) == data["questions"]


def test_the_old_spelling_takes_a_file_and_says_what_is_new(call, bundled, tmp_path):
    target = tmp_path / "rows.json"
    result = call("demo", "--samples", 1, "--strategies", "fastv", "--json", target)
    assert json.loads(target.read_text())["rows"][1]["strategy"] == "fastv"
    assert "Measured just now" in result.stdout
    assert result.stderr == f"warning: --json takes no file any more; write --json > {target}\n"


def test_unreachable_retention_is_said_in_its_row(ok, ok_json, bundled):
    args = ("demo", "--samples", 1, "--retention", 0.1, "--strategies", "fastv")
    assert "fastv did not run: retention" in ok(*args)
    vanilla, fastv = ok_json(*args, "--json")["rows"]
    assert "error" not in vanilla
    assert "compress after an earlier layer" in fastv["error"]


def test_same_seed_same_answers(ok_json, bundled):
    args = ("demo", "--samples", 1, "--strategies", "random", "--seed", 3, "--json")
    first, second = ok_json(*args), ok_json(*args)
    assert first["rows"][1]["accuracy"] == second["rows"][1]["accuracy"]


@pytest.mark.parametrize("retention", [0.35, 0.55])
def test_strategies_reach_equal_retention(bundled, retention):
    """Although small windows round to whole tokens, each at its own cost."""
    model, processor = load()
    names = comparing.STRATEGIES
    rows = compare(names, retention, held_out_scenes(1), model, processor, kinds=("exists",))
    assert [row.error for row in rows] == [None] * 7
    for row in rows[1:]:
        assert row.retention == pytest.approx(retention, abs=0.006)


def test_explicit_stages_run_as_they_are(ok_json, bundled, tmp_path):
    file = tmp_path / "mine.yaml"
    stages = "[{after_layer: 1, ratio: 0.25}]"
    file.write_text(f"name: mine\nmatcher: top-k\nscorer: noise\nschedule: {stages}\n")
    data = ok_json("demo", *FEW, "--strategies", file, "--json")
    assert data["rows"][1]["strategy"] == "mine"
    assert data["rows"][1]["schedule"] == [{"after_layer": 1, "ratio": 0.25}]
    assert data["rows"][1]["retention"] > 0.75


def test_compare_times_every_batch_for_every_strategy(bundled):
    model, processor = load()
    seen = []
    rows = compare(
        ["lightkv"],
        0.55,
        held_out_scenes(3),
        model,
        processor,
        kinds=KINDS[:2],
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [row.batches for row in rows] == [4, 4]
    assert seen[-1] == (10, 10)  # 4 batches and one to warm up, twice
    assert rows[1].ttft < 5.0
    assert rows[0].schedule == []


def test_times_leave_decoding_out(bundled):
    """The clock starts with each request, not with the last decode step of the one before."""
    model, processor = load()
    start = time.perf_counter()
    (row,) = compare([], 0.55, held_out_scenes(4), model, processor, kinds=("list",), batch_size=2)
    assert 0 < row.ttft < (time.perf_counter() - start) / (row.batches + 1)


def test_wilson_interval():
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson(0, 10)[0] == pytest.approx(0.0)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert Accuracy.of([1.0, 0.0, 0.5]).mean == 0.5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--retention", "0"), ("retention = 0", "above 0")),
        (("--retention", "half"), ("--retention",)),
        (("--samples", "0"), ("--samples", "at least 1")),
        (("--batch-size", "0"), ("--batch-size",)),
        (("--seed", "-1"), ("--seed",)),
        (("--strategies", "lightkv,fastw"), ("Did you mean 'fastv'",)),
        (("--strategies", "none.yaml"), ("none.yaml",)),
        (("--json", "/no/such/folder/x.json"), ("--json", "folder")),
        (("x.json",), ("unexpected extra argument (x.json)",)),
    ],
)
def test_bad_input_is_one_line(fails, bundled, args, words):
    line = fails("demo", *args)
    for word in words:
        assert word in line


def test_missing_bundled_model_is_one_line(fails, monkeypatch, tmp_path):
    monkeypatch.setitem(bundled_checkpoint.FOLDERS, "demo", tmp_path)
    assert "train one" in fails("demo")
    assert "train one" in fails("plan", "demo")
