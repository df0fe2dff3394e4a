"""x"""

from lightkv.testing import StrategySuite


class TestDivPrune(StrategySuite):
    preset = "divprune"
