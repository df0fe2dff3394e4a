"""Settings shared by all tests."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

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


# Without a device `torch.manual_seed` keeps a stack trace for each one that might come: a millisecond.
_seed_all = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _seed() -> None:
    _seed_all(0)


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

    def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
        mask = 2**bits - 1
        return torch.cat([packed >> shift & mask for shift in range(0, 8, bits)])

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)
