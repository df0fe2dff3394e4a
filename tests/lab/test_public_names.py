"""Names of `lightkv.lab`: the same thing at every access."""

import re
import subprocess
import sys
from pathlib import Path

import lightkv.lab


def test_names_are_the_same_every_time():
    """In a process of its own, because imports of other tests decide what is found."""
    code = """
import inspect, lightkv.lab as lab
first = {name: getattr(lab, name) for name in lab.__all__}
for name, found in first.items():
    space = {}
    exec(f"from lightkv.lab import {name} as again", space)
    assert found is getattr(lab, name) is space["again"], name
    assert callable(found) and not inspect.ismodule(found), name
    assert inspect.getdoc(found), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_the_lab_lists_them():
    page = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")
    table = page.partition("## Names in Python")[2]
    assert set(re.findall(r"`(\w+)`", table)) >= set(lightkv.lab.__all__)
