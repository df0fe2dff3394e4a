"""The contract of Qwen2-VL: as Qwen2.5-VL, with another tower."""

from test_qwen_vl import Qwen2VL


class TestQwen2VL(Qwen2VL):
    pass
