"""The contract of `auto`, on classes that have a family, under a type of which nobody knows."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "adapters"))

from test_llava import TestLlava as LlavaSuite
from test_mistral3 import TestMistral3 as Mistral3Suite
from test_qwen_vl import TestQwen25VL as QwenSuite

from lightkv.core.run.adapter import find_adapter

pytestmark = pytest.mark.filterwarnings("ignore:no family knows the model type")
CANNOT = {"later image": "refused: whether a picture sees itself there, only a family can say"}


class Unknown:
    """Another suite's models, with a type of which no family knows."""

    cannot = CANNOT
    class_token = False

    def make_model(self, *args, **options):
        model = super().make_model(*args, **options)
        model.config.model_type = "stranger"
        assert find_adapter(model).name == "auto"
        return model

    def options(self, model, prompts):
        return {}


class TestSquares(Unknown, LlavaSuite):
    pass


class TestGrids(Unknown, QwenSuite):
    pass


class TestSizes(Unknown, Mistral3Suite):
    pass


del LlavaSuite, Mistral3Suite, QwenSuite
