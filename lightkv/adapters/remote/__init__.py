"""What modelling code of the transformers 4 era shares, which ships with old checkpoints."""

from lightkv._moved import names_of

__getattr__ = names_of(__name__)
