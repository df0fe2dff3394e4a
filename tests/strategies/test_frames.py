"""Methods for video: laws, slow references, and what clips and stills mean to them."""

from lightkv.testing import StrategySuite


class TestEVS(StrategySuite):
    preset = "evs"


class TestDyCoke(StrategySuite):
    preset = "dycoke"


class TestFastVID(StrategySuite):
    preset = "fastvid"


class TestFrameFusion(StrategySuite):
    preset = "framefusion"


class TestHoliTom(StrategySuite):
    preset = "holitom"
