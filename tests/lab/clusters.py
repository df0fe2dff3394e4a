"""Tests of grids on a Ray cluster; they skip themselves where Ray is missing."""

from importlib.util import find_spec

import pytest

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: `make ray` installs it")
