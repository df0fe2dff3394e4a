"""Names of `lightkv.lab`: the same thing at every access."""

import subprocess
import sys


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
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
