"""x"""

from lightkv.testing import StrategySuite


class TestFasterVLM(StrategySuite):
    preset = "fastervlm"
