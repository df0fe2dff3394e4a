"""The contract of MiniCPM-OCR: as MiniCPM-V 4.6, with 2 × 2 patches to a token."""

from minicpm import MiniCPM
from releases import needs_class

from lightkv.testing import AdapterSuite

Config = needs_class("MiniCPMOcrConfig")
Model = needs_class("MiniCPMOcrForConditionalGeneration")


class TestMiniCPMOcr(MiniCPM, AdapterSuite):
    config, model, side = Config, Model, 2
    pictures = (((8, 12), None), ((8, 8), (2, 3, (8, 6))))
