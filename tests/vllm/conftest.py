"""What tests of the integration share: `make vllm` runs them in an environment of its own.

Where vLLM is missing, every file here is one skipped item. `import vllm` alone would not tell: this
folder has the same name, and Python takes a folder for a package where it finds no better one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks" / "vllm"))


def _is_here() -> bool:
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


HERE = _is_here()
if HERE:
    from server import ENVIRONMENT

    # The engine runs in the process of the tests; a server's never does.
    os.environ.update({**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1":
        import second_runner

        # Every test here also runs on the second model runner.
        os.environ["TRITON_INTERPRET"] = "1"
        second_runner.interpreted()


class _Skipped(pytest.Module):
    """A file that is not imported."""

    def collect(self):
        pytest.skip("needs vLLM: `make vllm` runs it")


def pytest_pycollect_makemodule(module_path, parent):
    if HERE:
        return None
    return _Skipped.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def renamed_checkpoint(tmp_path_factory):
    """The bundled checkpoint for vLLM's own LLaVA, which wants other names for the tower's weights."""
    from compare import checkpoint

    return Path(checkpoint(str(tmp_path_factory.mktemp("renamed")), renamed=True))


@pytest.fixture(scope="session")
def engines():
    """`engines(**arguments)` gives an `LLM`: one engine for equal arguments, as a start takes half a
    minute. Only the last one lives, so ask for it in each test and keep none."""
    made = {}

    def engine(**arguments):
        from vllm import LLM

        key = repr(sorted(arguments.items()))
        if key not in made:
            _end(made)
            made[key] = LLM(**{**SETTINGS, **arguments})
        return made[key]

    yield engine
    _end(made)


SETTINGS = {
    "dtype": "float32",
    "block_size": 32,
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "kv_cache_memory_bytes": 256 << 20,
    "disable_log_stats": True,
}
"""What `engines` adds to arguments that do not say otherwise."""


def _end(made):
    if made:
        from vllm.distributed import cleanup_dist_env_and_memory

        for engine in made.values():
            engine.llm_engine.engine_core.shutdown()
        made.clear()
        cleanup_dist_env_and_memory()
