"""The package of docs/examples, installed by pip as a stranger would and run on a real model class."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # pip and a fresh process

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "docs" / "examples" / "lightkv-outliers"

PROGRAM = """
import json
import sys
import pytest
import torch
import lightkv
from hypothesis import settings
from lightkv.core.plugins import registry
from tiny import tiny_qwen2_5_vl
from tiny_llava import make_inputs, make_model


def run():
    found = registry()
    model, inputs = make_model(), make_inputs()
    with lightkv.compress(model, "outliers", retention=0.55, trace=True) as run:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    report = run.last
    return {
        "failures": [str(error) for error in found.failures],
        "matcher": found.components["matcher", "outliers"].package,
        "preset": found.presets["outliers"].package,
        "builtin": found.presets["lightkv"].package,
        "vision": report.samples[0].vision_tokens,
        "slots": report.provenance().group_sizes().tolist(),
        "yaml": run.pipeline.to_yaml(),
    }


def ablate():
    GRID = torch.tensor([[1, 16, 16]])
    ids = torch.tensor([[1, 7] + [5] * 64 + [8, 20, 21, 22]])
    qwen_inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 5).long(),
        "pixel_values": torch.randn(256, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(1)),
        "image_grid_thw": GRID,
    }
    models = {"llava": (make_model(), make_inputs()), "qwen_vl": (tiny_qwen2_5_vl(), qwen_inputs)}
    variants = {
        "as it is": {},
        "partitioner: whole": {"partitioner": "whole"},
        "aggregator: drop": {"aggregator": "drop"},
        "both": {"partitioner": "whole", "aggregator": "drop"},
    }
    found = {}
    for family, (model, inputs) in models.items():
        for name, roles in variants.items():
            with lightkv.compress(model, "outliers", retention=0.55, **roles) as run:
                logits = model(**inputs, logits_to_keep=1).logits
            found[f"{family}, {name}"] = {
                "adapter": run.adapter.name,
                "retention": run.last.retention,
                "logit": float(logits[0, -1, 10]),
            }
    return found


def suite(arguments):
    settings.register_profile("few", max_examples=8, derandomize=True)
    settings.load_profile("few")
    return int(pytest.main(arguments))


# What came of each is said even where another fails.
found = {}
for name, part in {"run": run, "ablate": ablate, "suite": lambda: suite(sys.argv[1:])}.items():
    try:
        found[name] = part()
    except Exception as error:
        found[name] = {"error": repr(error)}
print()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Said:
    """What the process printed: what came of each part, and the lines of the suite."""

    found: dict[str, Any]
    text: str


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


@pytest.fixture(scope="module")
def said(installed: Path) -> Said:
    """One process that sees the installed example runs all parts: most of its time is importing."""
    path = os.pathsep.join([str(installed), str(HERE), str(HERE.parent)])
    tests = str(EXAMPLE / "tests")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", tests, "-c", os.devnull]
    command = [sys.executable, "-c", PROGRAM, *options, tests]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed)
    assert done.returncode == 0, done.stderr
    return Said(json.loads(done.stdout.splitlines()[-1]), done.stdout)


@pytest.fixture
def outcome(said: Said) -> dict[str, Any]:
    return said.found["run"]


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


def test_two_roles_are_ablated_on_two_adapters(said: Said) -> None:
    """A partitioner and an aggregator of others take the place of the package's choice."""
    found = said.found["ablate"]
    for family in ("llava", "qwen_vl"):
        cells = [cell for name, cell in found.items() if name.startswith(family)]
        assert {cell["adapter"] for cell in cells} == {family}
        assert all(0.4 < cell["retention"] < 0.6 for cell in cells)
        # Each variant computes something else.
        assert len({cell["logit"] for cell in cells}) == 4


def test_the_strategy_fits_on_a_page() -> None:
    source = EXAMPLE / "src" / "lightkv_outliers" / "__init__.py"
    assert len(source.read_text().splitlines()) < 40


def test_its_own_suite_passes(said: Said) -> None:
    assert said.found["suite"] == 0, said.text
    assert " passed" in said.text
    assert "skipped" not in said.text
