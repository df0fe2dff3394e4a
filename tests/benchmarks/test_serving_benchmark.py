"""benchmarks/serving.py at toy size: equal answers from threads, and memory that stays flat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lightkv.core.run.engine
import lightkv.core.run.reports

FOLDER = Path(__file__).parents[2] / "benchmarks"
OBJECTS, TENSORS = 5.0, 4096.0
"""Growth per request that 200 requests cannot tell from noise. A report is about 30 objects, a KV
cache of the tiny model more than 100 kB."""


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    # 200 requests hardly fill the reports of a session; what grows until then would count as growth.
    monkeypatch.setattr(lightkv.core.run.reports, "KEPT", 10)
    return __import__("serving")


def test_answers_of_many_threads_are_those_of_the_requests_alone(serving: Any) -> None:
    found = serving.equal_answers(requests=16, threads=8)
    assert found.equal == 16
    assert found.turns > 16  # or nothing was shown: the requests simply ran one after another


def test_requests_that_differ_are_of_different_layouts(serving: Any) -> None:
    inputs = serving.shaped_inputs(serving.tiny_qwen(), 50)
    shapes = {
        (tuple(i["input_ids"][0].tolist()), tuple(i["image_grid_thw"][0].tolist())) for i in inputs
    }
    assert len(shapes) == 50


def test_memory_stays_flat(serving: Any) -> None:
    samples = serving.memory_over_requests(200, threads=2, every=20)
    growth = serving.slopes(samples, warm=100)
    assert growth["blocks"] < OBJECTS
    assert growth["tensors"] < TENSORS
    assert growth["allocated"] < TENSORS
    last = samples[-1]
    assert (last.plans, last.layouts, last.reports) == (64, 16, 10)


def test_a_leak_is_found(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that kept more of each request than a bounded number of reports would be told."""
    kept: list[Any] = []
    finish = lightkv.core.run.engine.Engine.finish

    def leaky(self: Any, prefill: Any, **options: Any) -> Any:
        report = finish(self, prefill, **options)
        kept.append((report, torch.zeros(2000)))
        return report

    monkeypatch.setattr(lightkv.core.run.engine.Engine, "finish", leaky)
    samples = serving.memory_over_requests(120, threads=1, every=20)
    growth = serving.slopes(samples, warm=40)
    assert growth["blocks"] > OBJECTS
    assert growth["tensors"] > TENSORS
    assert growth["allocated"] == 0 or growth["allocated"] > TENSORS  # 0 without glibc
    told = " ".join(serving.complaints(samples, {**growth, "rss": 0.0}))
    assert "blocks grow by" in told
    assert "tensors grow by" in told
    assert "rss" not in told


def test_the_command_reports_and_fails_when_memory_grows(
    serving: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, out = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text("<!-- SERVING -->\nold\n<!-- SERVING -->\n")
    run = f"--requests 40 --every 10 --warm 10 --threads 1 --skip-equal --json {out} --write {page}"
    monkeypatch.setattr(serving, "BOUNDS", dict.fromkeys(serving.BOUNDS, 1e12))
    assert serving.main(run.split()) == 0
    assert "old" not in page.read_text()
    assert len(json.loads(out.read_text())["samples"]) == 4
    monkeypatch.setitem(serving.BOUNDS, "blocks", -1e12)
    monkeypatch.setattr(serving, "PLAN_CACHE", 3)
    assert serving.main(run.split()) == 1
    told = capsys.readouterr().err
    assert "blocks grow by" in told
    assert "more than 3" in told
    with pytest.raises(ValueError, match="more requests"):
        serving.slopes([], warm=0)
