"""x"""

from lightkv.testing import StrategySuite


class TestHiRED(StrategySuite):
    preset = "hired"
