"""What `lightkv plan` takes where nothing is given, told in the help of its options."""

BLOCK_SIZE = 16
"""Tokens of a block of an engine: vLLM's own default on GPUs."""
SHARE = 0.9
"""Of a GPU's memory what may be used; the rest is for the driver, libraries and fragments."""
WEIGHT_BYTES = 2.0
"""Bytes of a weight."""
RANGE = "0.2:1:0.1"
"""Retentions of a sweep."""
