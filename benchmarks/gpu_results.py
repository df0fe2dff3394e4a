"""A plugin of pytest: one line of JSON for each test as it ends, so that a cut leaves what is done.

GPU_RESULTS=FILE python -m pytest -p gpu_results …
"""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Write the outcome of a test, or of its setup or teardown if that did not pass."""
    if "PYTEST_XDIST_WORKER" in os.environ or "GPU_RESULTS" not in os.environ:
        return  # the process that spread the tests hears of all of them
    if report.when != "call" and report.outcome == "passed":
        return
    if report.when == "teardown" and report.outcome == "skipped":
        return
    outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
    found: dict[str, Any] = {
        "test": report.nodeid,
        "outcome": outcome,
        "seconds": round(report.duration, 3),
        **dict(report.user_properties),
    }
    if outcome != "passed":
        found["message"] = reason(report)
    with open(os.environ["GPU_RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")


def reason(report: Any) -> str:
    """Why a test failed or was skipped, in short."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)[:500]
