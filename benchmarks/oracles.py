"""The differences behind the oracles, as measured on this machine.

    python benchmarks/oracles.py [--only llava]

For every adapter whose contract is in tests/adapters or tests/families: identity (a matcher that keeps
everything), drop ≡ mask (FastV and random, prefill and later steps) and batch ≡ single, largest absolute
difference of logits in float32 over eager and sdpa. Then the golden vectors. `model_table.py`
puts these figures into docs/models.md beside what the tests found.
"""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lightkv.core.errors import ConfigError
from lightkv.testing import AdapterSuite

TESTS = Path(__file__).resolve().parent.parent / "tests"
ROOMS = (TESTS / "adapters", TESTS / "families")


def named_suites(only: str) -> list[tuple[str, str, AdapterSuite]]:
    """(test file, name, instance) of each contract in tests/adapters and tests/families."""
    sys.path[:0] = [str(TESTS), *map(str, ROOMS)]
    found = []
    paths = (path for room in ROOMS for path in room.glob("test_*.py"))
    for path in sorted(paths, key=lambda path: path.stem):
        if only in path.stem:
            try:
                module = _module(path)
            except pytest.skip.Exception:  # classes that this transformers lacks
                continue
            found += [
                (path.stem, name.removeprefix("Test"), cls())
                for name, cls in vars(module).items()
                if isinstance(cls, type)
                and issubclass(cls, AdapterSuite)
                and cls.__module__ == module.__name__
            ]
    return found


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def identity(suite: AdapterSuite, attention: str) -> float:
    """Largest difference of logits when every token survives."""
    model: Any = suite.make_model(attention)
    inputs = suite.make_inputs(model, suite.batch)
    plain = suite.logits(model, inputs)
    with suite.session(model, suite.batch, "lightkv", matcher="keep-all"):
        return float((suite.logits(model, inputs) - plain).abs().max())


def drop_and_mask(suite: AdapterSuite, attention: str) -> float:
    """Largest difference between dropping and masking."""
    worst = 0.0
    for pipeline in ("random", "fastv"):
        model = suite.make_model(attention)
        found, wanted = suite.drop_and_mask(
            model, suite.batch, pipeline, eager=attention == "eager"
        )
        worst = max(worst, float((found - wanted).abs().max()))
    return worst


def batch_and_single(suite: AdapterSuite, attention: str) -> float:
    """Largest difference between a left-padded batch and its samples alone, over all presets."""
    worst = 0.0
    for preset in ("lightkv", "lightkv-release", "fastv", "tome", "random"):
        model = suite.make_model(attention)
        try:
            with suite.session(model, suite.batch, preset):
                batch = suite.logits(model, suite.make_inputs(model, suite.batch))
        except ConfigError:
            continue  # windows over time do not suit every preset
        for row, prompt in enumerate(suite.batch):
            with suite.session(model, [prompt], preset):
                alone = suite.logits(model, suite.make_inputs(model, [prompt]))
            worst = max(worst, float((batch[row] - alone[0]).abs().max()))
    return worst


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a test file's name")
    options = parser.parse_args()
    print(f"{'contract':<22}{'identity':>12}{'drop = mask':>14}{'batch = single':>16}")
    for _, name, suite in named_suites(options.only):
        figures = [worst(measure, suite) for measure in (identity, drop_and_mask, batch_and_single)]
        print(f"{name:<22}{figures[0]:>12.1e}{figures[1]:>14.1e}{figures[2]:>16.1e}", flush=True)
    print("\ngolden vectors, largest absolute error of each file")
    runpy.run_path(str(TESTS / "golden" / "test_golden.py"), run_name="__main__")


def kind_of(model: Any) -> str:
    """The model's class in Markdown; what only stands in for published code is called that."""
    stands_in = type(model).__module__.startswith("standins")
    return f"`{type(model).__name__}`" + (" (stand-in)" if stands_in else "")


def worst(measure: Callable[[AdapterSuite, str], float], suite: AdapterSuite) -> float:
    """The largest figure over the attention implementations that the family runs with."""
    found = []
    for attention in ("eager", "sdpa"):
        if attention in suite.cannot:
            continue
        try:
            found.append(measure(suite, attention))
        except pytest.skip.Exception:
            continue
    return max(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
