"""What all decoders of transformers share: hooks, masks, caches, positions."""
