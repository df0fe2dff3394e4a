"""`lightkv export` and `lightkv compare`: what they print and write, and how they fail."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from synthetic_study import study, write

AXES = {"mean": {"weighted": 0.0, "plain": 0.05, "half": 0.1, "none": 0.2}}


@pytest.fixture
def results(tmp_path):
    def made(name, seed=0):
        return write(
            tmp_path / f"{name}.sqlite",
            *study(clusters=4, retentions=(0.5,), axes=AXES, seed=seed, unfinished=()),
        )

    return made


def test_export(results, tmp_path, ok, call, fails):
    one = results("one")
    text = ok("export", one)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["factor_mean"] for row in rows] == ["", *AXES["mean"]]
    out = tmp_path / "samples.json"
    wrote = call("export", one, "--samples", "--out", out)
    assert (wrote.stdout, wrote.exit_code) == ("", 0)
    assert "wrote 120 samples" in " ".join(wrote.stderr.split())
    assert json.loads(ok("export", one, "--samples", "--json")) == json.loads(out.read_text())
    assert "there already" in fails("export", one, "--out", out)
    assert len(json.loads(out.read_text())) == 120
    ok("export", one, results("two"), "--out", out, "--overwrite", "--json")
    assert {row["study"] for row in json.loads(out.read_text())} == {"one", "two"}
    kinds = json.loads(ok("export", one, "--kinds", "--json"))
    assert (len(kinds), kinds[0]["samples"]) == (5 * 6, 4)
    effects = list(csv.DictReader(io.StringIO(ok("export", one, "--effects"))))
    assert {row["label"] for row in effects} == {"plain", "half", "none"}
    assert "rows of one kind" in fails("export", one, "--kinds", "--samples")
    assert "no such results file" in fails("export", tmp_path / "none.sqlite")
    assert "folder does not exist" in fails("export", one, "--out", tmp_path / "no" / "x.csv")


def test_compare(results, ok, ok_json, fails):
    one, two = results("one"), results("two", seed=1)
    text = " ".join(ok("compare", one, two).split())
    assert "Same in everything that decides them, and answered alike: 5 of 5." in text
    found = ok_json("compare", one, two, "--to", "vanilla", "--json")
    assert len(found["pairs"]) == 4 + 5
    assert found["studies"] == ["one", "two"]
    assert "nothing to compare" in fails("compare", one)
    assert "Did you mean 'vanilla'" in fails("compare", one, two, "--to", "vanila")
