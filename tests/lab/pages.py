"""The benchmarks' headless Chromium for tests of pages; they skip themselves where it is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from browser import BROWSER, DRIVER, chromium

__all__ = ["chromium", "needs_browser"]

needs_browser = pytest.mark.skipif(
    BROWSER is None or DRIVER is None or find_spec("selenium") is None,
    reason="needs chromium and chromedriver on the path: `make browser` installs Debian's",
)
