"""What all decoders of transformers share: hooks, masks, caches, positions."""

from lightkv._moved import names_of

__getattr__ = names_of(__name__)
