"""x"""

from lightkv.testing import StrategySuite


class TestVisPruner(StrategySuite):
    preset = "vispruner"
