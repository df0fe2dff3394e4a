"""What `lightkv plan` takes where nothing is given, told in the help of its options."""

BLOCK_SIZE = 16
"""Tokens of a block of an engine: vLLM's own default on GPUs."""
RANGE = "0.2:1:0.1"
"""Retentions of a sweep."""
