"""The suites of `tests/adapters` for the contract on a device, and how far apart two results were."""

import sys
from pathlib import Path

import pytest
import torch

for folder in ("adapters", "."):
    sys.path.append(str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def _largest_difference(monkeypatch, record_property):
    """Record the largest difference that a test compared, whether it was small enough or not."""
    compare, largest = torch.testing.assert_close, -1.0

    def measured(actual, expected, *args, **kwargs):
        nonlocal largest
        if isinstance(actual, torch.Tensor) and actual.shape == expected.shape and actual.numel():
            apart = float((actual.double() - expected.double()).abs().max())
            if apart > largest:  # the last one recorded counts
                largest = apart
                record_property("difference", apart)
        compare(actual, expected, *args, **kwargs)

    monkeypatch.setattr(torch.testing, "assert_close", measured)
