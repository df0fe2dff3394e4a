"""lightkv inside other programs."""
