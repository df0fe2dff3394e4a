"""The package of docs/examples, installed by pip as a stranger would and run on a real model class."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # pip and two fresh processes

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "docs" / "examples" / "lightkv-outliers"

RUN = """
import json
import lightkv
from lightkv.core.plugins import registry
from tiny_llava import make_inputs, make_model

found = registry()
model, inputs = make_model(), make_inputs()
with lightkv.compress(model, "outliers", retention=0.55, trace=True) as run:
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
report = run.last
print(json.dumps({
    "failures": [str(error) for error in found.failures],
    "matcher": found.components["matcher", "outliers"].package,
    "preset": found.presets["outliers"].package,
    "builtin": found.presets["lightkv"].package,
    "vision": report.samples[0].vision_tokens,
    "slots": report.provenance().group_sizes().tolist(),
    "yaml": run.pipeline.to_yaml(),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, its metadata and nothing else."""
    folder = tmp_path_factory.mktemp("example")
    source, target = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source)  # pip builds in the source tree
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, *arguments: str) -> str:
    """Standard output of a Python process that sees the installed example."""
    path = os.pathsep.join([str(installed), str(HERE)])
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outcome(installed: Path) -> dict[str, Any]:
    return json.loads(python(installed, "-c", RUN).splitlines()[-1])


def test_listed_with_its_package(outcome: dict[str, Any]) -> None:
    assert outcome["failures"] == []
    assert outcome["matcher"] == outcome["preset"] == "lightkv-outliers"
    assert outcome["builtin"] == "lightkv"


def test_runs_on_llava(outcome: dict[str, Any]) -> None:
    vision = outcome["vision"]
    assert vision[0] == 64
    assert vision == sorted(vision, reverse=True)
    # Halving windows of 4, 4 and 16 tokens leaves an eighth of 64.
    assert vision[-1] == 8
    assert "matcher: outliers" in outcome["yaml"]


def test_every_patch_has_a_survivor(outcome: dict[str, Any]) -> None:
    assert sum(outcome["slots"]) == 64
    assert min(outcome["slots"]) >= 1


SUITE = """
import sys
import pytest
from hypothesis import settings

settings.register_profile("few", max_examples=15, derandomize=True)
settings.load_profile("few")
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_its_own_suite_passes(installed: Path) -> None:
    tests = str(EXAMPLE / "tests")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", tests, "-c", os.devnull]
    summary = python(installed, "-c", SUITE, *options, tests)
    assert " passed" in summary
    assert "skipped" not in summary
