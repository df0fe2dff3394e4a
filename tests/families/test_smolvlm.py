"""The contract of SmolVLM: as Idefics3, in a class of its own."""

from test_idefics3 import SmolVLM


class TestSmolVLM(SmolVLM):
    pass
