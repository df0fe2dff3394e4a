"""The benchmarks run, at toy sizes: what they print follows from what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script of the folder by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__


def test_end_to_end(benchmark, monkeypatch, tmp_path, capsys):
    out = tmp_path / "found.json"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- TTFT -->\nold\n<!-- TTFT -->\nafter\n")
    size = ["--side", "8", "--width", "32", "--heads", "4", "--layers", "12", "--text", "9"]
    run = f"--strategies lightkv,fastv --rounds 2 --decode 2 --json {out} --write {page}".split()
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *size, *run])
    benchmark("end_to_end").main()
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["vanilla", "lightkv", "fastv"]
    for name in ("lightkv", "fastv"):
        row = rows[name]
        assert row["retention"] == pytest.approx(0.55, abs=0.03)
        assert row["over_ideal"] == pytest.approx(row["ttft"]["ratio"] / row["flops"])
        ratios = [a / b for a, b in zip(row["times"], rows["vanilla"]["times"], strict=True)]
        assert row["ttft"]["low"] == min(ratios)
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "`fastv`" in text
    assert "old" not in text


@pytest.mark.parametrize("decoder", ["llama", "hybrid", "experts"])
def test_wide_models_on_other_decoders(benchmark, decoder):
    model = benchmark("wide").wide_llava(8, width=32, layers=4, heads=4, decoder=decoder)
    text = model.config.text_config
    assert (text.num_hidden_layers, text.num_attention_heads) == (4, 4)
    assert model.model.vision_tower.config.image_size == 8 * benchmark("wide").PATCH


def test_the_gpu_script_runs_without_a_gpu(benchmark, tmp_path, capsys):
    out = tmp_path / "found.json"
    run = f"--part 7b --device cpu --small --batches 1 --rounds 1 --decode 1 --json {out}"
    benchmark("gpu").main(run.split())
    rows = json.loads(out.read_text())["parts"]["7b, sdpa, small"]["1"]
    assert rows["lightkv"]["retention"] == pytest.approx(0.55, abs=0.01)
    assert rows["lightkv"]["flops"] < 0.7
    with pytest.raises(SystemExit):
        benchmark("gpu").main(["--part", "7b"])
    assert "--device cpu --small" in capsys.readouterr().err


def test_the_interval_holds_the_median(benchmark):
    values = np.random.default_rng(1).normal(1.01, 0.02, size=60)
    middle, low, high = benchmark("overhead").interval(values)
    assert low < middle < high
    assert high - low < 0.03
