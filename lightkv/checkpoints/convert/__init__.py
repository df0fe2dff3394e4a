"""Checkpoints in the form of their authors' own code, made into those that transformers loads itself."""

from lightkv.checkpoints.convert.internvl2 import Conversion, convert_internvl2

__all__ = ["Conversion", "convert_internvl2"]
