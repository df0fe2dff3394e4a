"""`lightkv plan --sweep`: points, plots and bad input."""

from __future__ import annotations

import importlib.util
import re

import pytest

from lightkv.cli.plan.points import retentions_of


def test_points_of_a_range():
    assert retentions_of("0.2:1:0.1") == pytest.approx([0.2 + 0.1 * i for i in range(9)])
    assert retentions_of("0.5:0.5:0.1") == [0.5]
    assert retentions_of("0.3:1:0.3") == pytest.approx([0.3, 0.6, 0.9])


def test_each_point_is_what_plan_counts(ok_json):
    found = ok_json(
        "plan",
        "llava-next-7b",
        "--sweep",
        "--strategy",
        "lightkv,fastv",
        "--text-tokens",
        20,
        "--json",
    )
    assert found["vision_tokens"] == 2144
    assert [(p["strategy"], p["wanted"]) for p in found["points"]] == [
        (name, wanted) for name in ("lightkv", "fastv") for wanted in retentions_of("0.2:1:0.1")
    ]
    for strategy in ("lightkv", "fastv"):
        point = next(p for p in found["points"] if p["strategy"] == strategy and p["wanted"] == 0.5)
        alone = ok_json(
            "plan", "llava-next-7b", "--strategy", strategy, "--retention", 0.5,
            "--text-tokens", 20, "--json",
        )  # fmt: skip
        after = alone["compressed"]
        assert point["retention"] == alone["retention"]
        assert point["flops"] == after["flops"]
        assert point["prefill_flops"] == after["prefill_flops"] + after["compression_flops"]
        assert point["kv_bytes"] == after["kv_bytes"]
        assert point["kv_ratio"] == after["kv_bytes"] / alone["vanilla"]["kv_bytes"]


def test_more_retention_costs_more(ok_json):
    points = ok_json("plan", "qwen2.5-vl-7b", "--sweep", "--json")["points"]
    for key in ("retention", "prefill_flops", "flops", "kv_bytes", "vision_kv_bytes"):
        values = [point[key] for point in points]
        assert values == sorted(values)
        assert len(set(values)) == len(values)
    assert points[-1]["retention"] == points[-1]["flops_ratio"] == points[-1]["kv_ratio"] == 1


def test_points_out_of_reach_are_named(ok, ok_json, fails):
    sweep = ("plan", "llava-v1.5-7b", "--sweep", "--strategy", "fastv")
    points = ok_json(*sweep, "--range", "0.02:0.5:0.24", "--json")["points"]
    assert "reason" in points[0]
    assert "retention" in points[1]
    text = " ".join(ok(*sweep, "--range", "0.02:0.5:0.24").split())
    assert "–: " in text
    assert "Assumed: vision tokens 576, text tokens 75" in text
    assert "retention" in fails(*sweep, "--range", "0.02:0.02:0.1")


def test_plots(ok, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "sweep.svg"
    sweep = ("plan", "llava-v1.5-7b", "--sweep", "--strategy", "lightkv,fastv", "--plot", target)
    assert "Drawn" in ok(*sweep)
    first = target.read_text()
    for word in ("lightkv", "fastv", "retention of vision KV", "llava-v1.5-7b"):
        assert f">{word}<" in first
    assert len(re.findall(r'id="line2d_', first)) >= 8  # two strategies, two lines, two panels
    ok(*sweep)
    assert target.read_text() == first
    picture = tmp_path / "sweep.png"
    ok(*sweep[:-1], picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(fails, ok, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "matplotlib" else find(name, *a),
    )
    line = fails("plan", "llava-v1.5-7b", "--sweep", "--plot", tmp_path / "a.svg")
    assert "lightkv[plot]" in line
    assert "0.20" in ok("plan", "llava-v1.5-7b", "--sweep")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--sweep", "--plot", "a.gif"), ("--plot", ".svg")),
        (("--sweep", "--plot", "no/such/folder/a.svg"), ("--plot", "does not exist")),
        (("--sweep", "--range", "0:1:0.1"), ("--range", "0.2:1:0.1")),
        (("--sweep", "--range", "0.5:1"), ("--range",)),
        (("--sweep", "--range", "a:b:c"), ("--range",)),
        (("--sweep", "--range", "0.9:0.2:0.1"), ("--range",)),
        (("--sweep", "--range", "0.2:1:0.00001"), ("--range", "200")),
        (("--sweep", "--range", "nan:1:0.1"), ("--range",)),
        (("--sweep", "--range", "0.2:1:nan"), ("--range",)),
        (("--sweep", "--retention", "0.5"), ("--sweep", "--retention")),
        (("--sweep", "--layers", "3,4"), ("--sweep", "--layers")),
        (("--sweep", "--published"), ("--published",)),
        (("--sweep", "--trace"), ("--trace",)),
        (("--sweep", "--strategy", "lightkv,fastw"), ("did you mean 'fastv'",)),
        (("--sweep", "--new-tokens", "0"), ("new_tokens",)),
        (("--range", "0.2:1:0.1"), ("--range", "add --sweep")),
        (("--plot", "a.svg"), ("--plot", "add --sweep")),
    ],
)
def test_bad_input_is_one_line(fails, args, words):
    line = fails("plan", "llava-v1.5-7b", *args)
    for word in words:
        assert word.lower() in line.lower()
