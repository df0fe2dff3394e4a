"""x"""

from lightkv.testing import StrategySuite


class TestPruMerge(StrategySuite):
    preset = "prumerge"


class TestPruMergePlus(StrategySuite):
    preset = "prumerge-plus"
