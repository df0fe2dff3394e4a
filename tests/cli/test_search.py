"""`lightkv search`: runs a study, prints and writes what it found, and fails in one line."""

import pytest
import yaml

pytest.importorskip("optuna")

STUDY = {
    "task": {"name": "scenes", "scenes": 8, "seed": 1, "kinds": ["exists"]},
    "retention": 0.5,
    "space": {"scorer": {"any": ["uniform", "causal-attention"]}},
    "trials": 2,
    "sampler": "random",
}


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def test_what_is_found_is_printed_and_written(bundled, ok, ok_json, study, tmp_path):
    out, front = tmp_path / "r.sqlite", tmp_path / "front"
    text = ok("search", study, "--out", out, "--front", front)
    assert "trial 0" in text
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert list(front.iterdir())
    for pipeline in front.iterdir():
        assert yaml.safe_load(pipeline.read_text())["schedule"][0]["after_layer"]
    shown = ok_json("search", "--show", "--out", out, "--page", tmp_path / "p.html", "--json")
    assert "trial 0" in {design["name"] for design in shown["designs"]}
    assert shown["page"] == str(tmp_path / "p.html")


def test_mistakes_are_one_line(fails, study, tmp_path):
    assert "nothing to search" in fails("search", "--out", tmp_path / "r.sqlite")
    assert "no such results file" in fails("search", "--show", "--out", tmp_path / "r.sqlite")
    assert "folder that exists" in fails("search", study, "--out", tmp_path / "no" / "r.sqlite")
    study.write_text("trails: 3")
    assert "Did you mean 'trials'" in fails("search", study, "--out", tmp_path / "r.sqlite")
