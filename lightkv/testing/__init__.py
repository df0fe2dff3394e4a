"""Suites that a plugin gets for free: subclass one in your tests and set what is yours.

    from lightkv.testing import StrategySuite

    class TestMine(StrategySuite):
        preset = "mine"

Needs pytest and hypothesis. `StrategySuite` checks a preset without a model,
`OrderFreeSuite` also that places do not matter; `AdapterSuite` checks an
adapter on a tiny model with random weights.
"""

from lightkv.testing.adapters import AdapterBench, Prompt
from lightkv.testing.cases import Case, Chain, cases
from lightkv.testing.contract import AdapterSuite
from lightkv.testing.strategies import OrderFreeSuite, StrategySuite, check_strategy

__all__ = [
    "AdapterBench",
    "AdapterSuite",
    "Case",
    "Chain",
    "OrderFreeSuite",
    "Prompt",
    "StrategySuite",
    "cases",
    "check_strategy",
]
