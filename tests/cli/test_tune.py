"""`lightkv tune`: tells what it found, writes it, and fails in one line."""

from __future__ import annotations

import json

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec

DATA = ("--model", "demo", "--data", "scenes:16")


def test_finds_prints_and_writes(bundled, tmp_path, call):
    out = tmp_path / "t.yaml"
    # The random model has little to lose, so that it passes at the smallest retention.
    few = ("--max-drop", "60%", "--range", "0.4:0.6", "--step", "0.2", "--out", out)
    result = call("tune", *DATA, *few)
    assert result.exit_code == 0, result.stderr
    assert "lightkv at 0.4" in result.stderr  # without a terminal a line for each evaluation
    assert "lightkv at retention 0.4" in result.stdout
    assert "Remark: " in result.stdout
    assert "lightkv-tuned is a tuned pipeline" in " ".join(result.stdout.split())
    assert PipelineSpec.from_file(out).name == "lightkv-tuned"
    result = call(
        "tune", *DATA, *few, "--range", "0.4:0.4", "--json"
    )  # its own file is written again
    found = json.loads(result.stdout)
    assert found["retention"] == 0.4
    assert found["out"] == str(out)


def test_nothing_shown_is_exit_code_1(bundled, tmp_path, call):
    out = tmp_path / "t.yaml"
    result = call("tune", *DATA, "--range", "0.5:0.5", "--out", out)
    assert result.exit_code == 1
    assert "not even a loss of 0 is shown" in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()


def test_a_disk_that_fills_up_costs_the_file_and_not_the_result(
    bundled, tmp_path, call, monkeypatch
):
    def full(tuned, path):
        raise ConfigError("cannot write the file (No space left on device)", field="out")

    monkeypatch.setattr("lightkv.lab.search.result.write", full)
    out = tmp_path / "t.yaml"
    few = ("--max-drop", "60%", "--range", "0.4:0.4", "--out", out, "--json")
    result = call("tune", *DATA, *few)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["retention"] == 0.4
    assert "No space left" in result.stderr


def test_errors_are_one_line(bundled, tmp_path, fails):
    out = ("--out", tmp_path / "t.yaml")
    assert "such as 1%" in fails("tune", *DATA, "--max-drop", "200%", *out)
    assert "no such file" in fails("tune", "--model", "demo", "--data", "none.jsonl", *out)
    assert "such as 95%" in fails("tune", *DATA, "--confidence", "95", *out)
    assert "folder that exists" in fails("tune", *DATA, "--out", tmp_path / "no" / "t.yaml")
