"""Settings shared by all tests. The process that only hands them out is spared importing torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import torch

pytest_plugins = ["recording"]

settings.register_profile(
    "ci",
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# `pytest --hypothesis-profile=long` looks further, with another seed each time.
settings.register_profile("long", max_examples=150, deadline=None)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    # Without a device `torch.manual_seed` keeps a stack trace for each that might come: a millisecond.
    host = torch.default_generator.manual_seed
    (torch.manual_seed if torch.cuda.is_available() else host)(0)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules make a million objects that stay. The collector of garbage is spared looking at them,
    while they are made and in each of its passes afterwards: some tests ask for many passes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "quanti" in item.name:
        _unpack_in_python()


def _unpack_in_python() -> None:
    """quanto compiles an extension at its first use, which takes most of a minute and a compiler that
    not every machine has. It only takes small numbers out of bytes, lowest bits first."""
    try:
        from optimum.quanto.library.extensions import get_extension
    except ImportError:
        return

    import torch

    def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
        mask = 2**bits - 1
        return torch.cat([packed >> shift & mask for shift in range(0, 8, bits)])

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)
