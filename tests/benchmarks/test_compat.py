"""The tables of `make compat`, from what the plugin of the tests records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recording import ORACLES, difference

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from compat import cell, table

ROOT = Path(__file__).parents[2]


def told(outcome, difference=None, reason=None, family="Llava", oracle="beams"):
    return {
        "test": "t",
        "file": f"test_{(family or 'other').lower()}.py",
        "family": family,
        "oracles": [oracle] if oracle else [],
        "outcome": outcome,
        "remark": "",
        "seconds": 0.5,
        "difference": difference,
        "reason": reason,
    }


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        ([told("passed", 2e-7), told("passed", 0.0)], "2e-07"),
        ([told("passed"), told("passed", 0.0)], "ok"),
        ([told("passed", 2e-7), told("failed", 3.0)], "**1 FAILED**"),
        ([told("passed", 2e-7), told("skipped", reason="why")], "2e-07 (1)"),
        ([told("skipped", reason="why"), told("skipped", reason="other")], "– (1, 2)"),
        ([], "– (1)"),
    ],
)
def test_cells(tests, text):
    assert cell(tests, {}) == text


def test_a_table_has_a_row_for_each_family_and_counts_the_rest():
    found = {
        "versions": {"transformers": "5.99.0", "torch": "2"},
        "oracles": list(ORACLES),
        "seconds": 61.0,
        "tests": [
            told("passed", 1e-6),
            told("failed", family="Eve"),
            told("passed", family=None, oracle=None),
        ],
    }
    text = table(found)
    assert text.startswith("### transformers 5.99.0")
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| family",
        "| Eve",
        "| Llava",
    ]
    assert "2 families: 2 tests passed, 1 failed, 0 skipped" in text
    assert "1 min 1 s" in text


def test_differences_of_nested_values():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    assert difference([one, {"a": other}], [one, {"a": one}]) == 0.5
    assert difference(3, 1) == 2.0
    assert difference((), ()) == 0.0


def test_the_record_of_one_family(tmp_path):
    """Processes of xdist send what they saw to the one that writes."""
    target = tmp_path / "record.json"
    command = [sys.executable, "-m", "pytest", "tests/adapters/test_internvl_chat.py", "-n", "1"]
    command += [
        "-k",
        "test_batch_equals_single and not policy",
        "--record",
        str(target),
        "-p",
        "no:cacheprovider",
    ]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tests = json.loads(target.read_text())["tests"]
    assert {(test["family"], *test["oracles"]) for test in tests} == {
        ("InternVLChat", "batch = single")
    }
    differences = [test["difference"] for test in tests if test["outcome"] == "passed"]
    assert 0 < max(differences) < 1e-5
    [reason] = {test["reason"] for test in tests if test["outcome"] == "skipped"}
    assert f"    2  {reason}" in out
