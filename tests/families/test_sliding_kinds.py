"""The contract of decoders that slide: alternating layers, capped logits, two rotary bases."""

from test_gemma3 import Gemma3Text
from test_paligemma import PaliGemma2
from test_windows import Alternating


class TestAlternating(Alternating):
    pass


class TestGemma3Text(Gemma3Text):
    pass


class TestPaliGemma2(PaliGemma2):
    pass


del Alternating, Gemma3Text, PaliGemma2
