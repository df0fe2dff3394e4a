"""The contract of Pixtral: as Mistral 3, without merging patches, in the class of LLaVA."""

from test_mistral3 import Pixtral


class TestPixtral(Pixtral):
    pass
