"""x"""

from lightkv.testing import StrategySuite


class TestVisionZip(StrategySuite):
    preset = "visionzip"
